"""The network-status entries of an attachment, from its result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni import result as results
from wirespeed.cni.versions import SUPPORTED
from wirespeed.errors import Error
from wirespeed.kube import deviceinfo
from wirespeed.plugins.meta import status

POD = "/run/netns/pod"


def entries(raw: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
    given = {"label": "default/net", "ifname": "net1", "master": False, "device_info": None, **how}
    return status.entries(result=results.read(raw, "1.1.0"), **given)


def test_one_interface_is_one_entry_with_the_keys_in_order() -> None:
    raw = {
        "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 9000, "sandbox": POD}],
        "ips": [
            {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0},
            {"address": "fd00::2/64", "gateway": "fd00::1"},
        ],
        "routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "::/0", "gw": "fd00::9"},
            {"dst": "10.9.0.0/16", "gw": "10.0.0.8"},
        ],
        "dns": {"nameservers": ["10.0.0.53"]},
    }
    info = deviceinfo.pci_info("0000:03:02.0")
    (entry,) = entries(raw, master=True, device_info=info)
    assert entry == {
        "name": "default/net",
        "interface": "net1",
        "ips": ["10.0.0.2", "fd00::2"],
        "mac": "02:00:00:00:00:01",
        "mtu": 9000,
        "default": True,
        "dns": {"nameservers": ["10.0.0.53"]},
        "device-info": info,
        "gateway": ["10.0.0.1", "fd00::9"],
    }
    assert list(entry) == ["name", "interface", "ips", "mac", "mtu", "default", "dns", "device-info", "gateway"]


def test_result_that_says_nothing_is_an_entry_too() -> None:
    assert entries({}) == [{"name": "default/net", "interface": "net1", "dns": {}}]


def test_interfaces_of_the_node_are_left_out() -> None:
    raw = {
        "interfaces": [
            {"name": "br0", "mac": "a"},
            {"name": "veth1"},
            {"name": "net1", "mac": "b", "sandbox": POD},
        ],
        "ips": [{"address": "10.0.0.2/24", "interface": 2}],
    }
    assert entries(raw) == [
        {"name": "default/net", "interface": "net1", "ips": ["10.0.0.2"], "mac": "b", "dns": {}}
    ]


def test_interfaces_of_the_pod_are_an_entry_each_with_their_own_addresses() -> None:
    raw = {
        "interfaces": [{"name": "a", "sandbox": POD}, {"name": "host"}, {"name": "b", "sandbox": POD}],
        "ips": [
            {"address": "10.0.0.2/24", "interface": 0},
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 2},
            {"address": "10.2.0.2/24"},
            {"address": "10.3.0.2/24", "interface": 1},
        ],
    }
    first, second = entries(raw, master=True)
    assert (first["interface"], first["ips"], "default" in first) == ("a", ["10.0.0.2"], False)
    assert (second["interface"], second["ips"], second["default"]) == ("b", ["10.1.0.2", "10.2.0.2"], True)


@pytest.mark.parametrize("destination", ["0.0.0.0/1", "10.0.0.0/8", "::/1"])
def test_route_to_a_part_of_everywhere_is_no_default_route(destination: str) -> None:
    gateway = "fd00::1" if ":" in destination else "10.0.0.1"
    assert "gateway" not in entries({"routes": [{"dst": destination, "gw": gateway}]})[0]


def test_default_route_without_a_gateway_has_none() -> None:
    assert "gateway" not in entries({"routes": [{"dst": "0.0.0.0/0"}], "ips": [{"address": "fd00::2/64"}]})[0]


json_values = st.recursive(
    st.none() | st.integers(-1, 3) | st.sampled_from(["10.0.0.1/24", "fd00::1", "0.0.0.0/0", "::/0", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "mac", "mtu", "sandbox", "address", "gateway", "interface", "dst", "gw"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["interfaces", "ips", "routes", "dns", "ip4"]), json_values),
    st.sampled_from(["0.2.0", *SUPPORTED]),
    st.booleans(),
)
def test_any_result_that_can_be_read_has_a_status(raw: dict[str, Any], version: str, master: bool) -> None:
    try:
        result = results.read(raw, version)
    except Error:
        return
    found = status.entries(label="ns/n", ifname="net1", master=master, result=result, device_info=None)
    assert found
    assert all(entry["interface"] for entry in found)
    assert sum(entry.get("default", False) for entry in found) == master
