"""The allocator of a pod's devices: each device is assigned once."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed.cni.chain import load_network
from wirespeed.errors import Error, Kind
from wirespeed.plugins.meta.devices import Devices, DeviceUse, device_use


@pytest.mark.parametrize(
    ("plugins", "use"),
    [
        ([{"type": "sriov"}, {"type": "tuning"}], DeviceUse.NEEDED),
        # the configured device may belong to another pod
        ([{"type": "sriov", "deviceID": "0000:03:02.0"}], DeviceUse.NEEDED),
        ([{"type": "wirespeed-sriov"}], DeviceUse.NEEDED),
        ([{"type": "ib-sriov"}], DeviceUse.NEEDED),
        ([{"type": "accelerated-bridge"}], DeviceUse.NEEDED),
        ([{"type": "afxdp"}], DeviceUse.NEEDED),
        ([{"type": "host-device"}], DeviceUse.NEEDED),
        ([{"type": "host-device", "device": "ens1"}], DeviceUse.POSSIBLE),
        ([{"type": "ovs"}], DeviceUse.POSSIBLE),
        ([{"type": "bridge"}, {"type": "vendors"}], DeviceUse.POSSIBLE),
        ([{"type": "wirespeed-vhost"}], DeviceUse.POSSIBLE),
        ([{"type": "bridge"}], DeviceUse.NONE),
        ([{"type": "macvlan"}, {"type": "tuning"}, {"type": "sbr"}], DeviceUse.NONE),
    ],
)
def test_plugins_tell_whether_a_network_uses_a_device(plugins: list[dict[str, Any]], use: DeviceUse) -> None:
    assert device_use(load_network({"name": "n", "plugins": plugins})) is use


def devices(**ids: list[str]) -> Devices:
    return Devices(lambda: {f"intel.com/{name}": each for name, each in ids.items()}, "ns/p")


def test_devices_are_handed_out_in_order_of_their_ids() -> None:
    pool = devices(a=["03:02.3", "03:02.0", "03:02.3"], b=["03:09.0"])
    assert [pool.take("intel.com/a"), pool.take("intel.com/b"), pool.take("intel.com/a")] == [
        "03:02.0",
        "03:09.0",
        "03:02.3",
    ]


def test_kubelet_is_asked_once_and_only_when_a_device_is_wanted() -> None:
    asked = []

    def lookup() -> dict[str, list[str]]:
        asked.append(1)
        return {"intel.com/a": ["1", "2"]}

    pool = Devices(lookup, "ns/p")
    assert asked == []
    pool.take("intel.com/a")
    pool.take("intel.com/a")
    assert asked == [1]


def test_device_that_is_taken_by_id_is_no_longer_to_be_had() -> None:
    pool = devices(a=["1", "2"])
    assert pool.take_id("1") == "intel.com/a"
    assert pool.take("intel.com/a") == "2"


def test_device_under_two_resources_is_handed_out_once() -> None:
    pool = devices(a=["1"], b=["1", "2"])
    assert pool.take("intel.com/a") == "1"
    assert pool.take("intel.com/b") == "2"


@pytest.mark.parametrize(
    ("before", "ids", "message"),
    [
        (0, [], "it was given none"),
        (2, ["1", "2"], "all 2 are attached already"),
    ],
)
def test_no_device_left_is_refused_with_why(before: int, ids: list[str], message: str) -> None:
    pool = devices(a=ids)
    for _ in range(before):
        pool.take("intel.com/a")
    with pytest.raises(Error, match=f"no device of resource intel.com/a is left for pod ns/p: {message};") as no:
        pool.take("intel.com/a")
    assert no.value.kind == Kind.DEVICE


@pytest.mark.parametrize(
    ("device", "resource", "message"),
    [
        ("9", "", 'key "deviceID": device 9 was not given to pod ns/p by the kubelet'),
        ("2", "intel.com/a", 'key "deviceID": device 2 was not given to pod ns/p as resource intel.com/a'),
        ("1", "", 'key "deviceID": device 1 is requested twice'),
    ],
)
def test_device_of_another_or_asked_for_twice_is_refused(device: str, resource: str, message: str) -> None:
    pool = devices(a=["1"], b=["2"])
    pool.take("intel.com/a")
    with pytest.raises(Error) as refused:
        pool.take_id(device, resource)
    assert (refused.value.kind, refused.value.msg) == (Kind.POLICY, message)


def test_what_asking_the_kubelet_raises_is_raised_and_it_is_asked_again() -> None:
    answers: list[dict[str, list[str]] | Error] = [
        Error(Kind.TRY_AGAIN, "away"),
        {"intel.com/a": ["1"]},
    ]

    def lookup() -> dict[str, list[str]]:
        answer = answers.pop(0)
        if isinstance(answer, Error):
            raise answer
        return answer

    pool = Devices(lookup, "ns/p")
    with pytest.raises(Error, match="away"):
        pool.take("intel.com/a")
    assert pool.take("intel.com/a") == "1"
