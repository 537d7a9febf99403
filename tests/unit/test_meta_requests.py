"""What a pod requested from a network and did not get, determined from the result."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed.plugins.meta.delegate import Delegate
from wirespeed.plugins.meta.requests import unmet_requests

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
POD = {"name": "net1", "sandbox": "/run/netns/p"}


def delegate(**more: Any) -> Delegate:
    return Delegate(
        configuration="c", request_ifname="eth0", label="ns/n", raw={}, version="1.0.0", ifname="net1", **more
    )


def told(found: Delegate, **result: Any) -> list[str]:
    return list(unmet_requests(found, {"interfaces": [], "ips": [], **result}))


@pytest.mark.parametrize("why", [{"asked": ("mac",)}, {"lenient": ("mac",)}])
def test_other_mac_than_the_one_asked_for_is_told(why: dict[str, Any]) -> None:
    found = delegate(runtime_config={"mac": MAC}, **why)
    host_end = {"name": "veth1", "mac": MAC}
    expected = f'network ns/n (net1): key "mac": requested {MAC}, got {OTHER}'
    if "lenient" in why:
        expected += ': no plugin of the network has the capability "mac"'
    assert told(found, interfaces=[host_end, {**POD, "mac": OTHER}]) == [expected]
    assert told(found, interfaces=[host_end, {**POD, "mac": MAC.upper()}]) == []


def test_result_that_tells_no_mac_shows_nothing() -> None:
    found = delegate(runtime_config={"mac": MAC}, lenient=("mac",))
    assert told(found) == told(found, interfaces=[POD, {"name": "veth1", "mac": OTHER}]) == []


def test_address_that_is_missing_is_told_however_it_is_written() -> None:
    found = delegate(runtime_config={"ips": ["10.0.0.2/24", "2001:db8::2"]}, lenient=("ips",))
    why = 'no plugin of the network has the capability "ips"'
    assert told(found, ips=[{"address": "10.0.0.2/16"}, {"address": "2001:DB8:0::2/64"}]) == []
    assert told(found, ips=[{"address": "10.0.0.2/24"}, {"address": "10.0.0.9/24"}]) == [
        f'network ns/n (net1): key "ips": requested 2001:db8::2, got 10.0.0.2, 10.0.0.9: {why}'
    ]
    assert told(found) == [f'network ns/n (net1): key "ips": requested 10.0.0.2, 2001:db8::2, got none: {why}']


def test_what_nobody_takes_has_no_effect() -> None:
    found = delegate(runtime_config={"bandwidth": {"ingressRate": 1}}, lenient=("bandwidth",))
    assert told(found) == [
        'network ns/n (net1): the pod asks for "bandwidth", and no plugin of it has that capability: no effect'
    ]


def test_what_the_runtime_asks_of_the_master_is_not_the_pods() -> None:
    assert (
        told(delegate(runtime_config={"mac": MAC, "ips": ["10.0.0.2"]}), interfaces=[{**POD, "mac": OTHER}]) == []
    )
