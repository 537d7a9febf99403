"""The exact answer to an allocation, and the preferred devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin.allocation import container_response
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.preference import preferred
from wirespeed.devices.inventory import NetDevice, Reader
from wirespeed.errors import Error, Kind


def netdev(address: str, driver: str = "iavf", group: str = "", node: int = -1) -> NetDevice:
    return NetDevice(
        address=address, vendor="8086", device="154c", driver=driver, iommu_group=group, numa_node=node
    )


def nodes(answered: Any) -> list[tuple[str, str, str]]:
    return [(node.container_path, node.host_path, node.permissions) for node in answered.devices]


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def test_kernel_vfs(sysfs: FakeSysfs) -> None:
    told = container_response(
        PoolConfig(resource="intel.com/netdev"), [netdev("0000:03:02.0"), netdev("0000:03:02.1")], str(sysfs.root)
    )
    assert dict(told.envs) == {
        "PCIDEVICE_INTEL_COM_NETDEV": "0000:03:02.0,0000:03:02.1",
        "PCIDEVICE_INTEL_COM_NETDEV_INFO": '{"0000:03:02.0":{"generic":{"deviceID":"0000:03:02.0"}},'
        '"0000:03:02.1":{"generic":{"deviceID":"0000:03:02.1"}}}',
    }
    assert not told.devices
    assert not told.mounts
    assert not told.annotations


def test_vfio_vfs_with_additional_info_and_a_group_without_iommu(sysfs: FakeSysfs) -> None:
    sysfs.device("0000:03:02.2", driver="vfio-pci", iommu_group=42)
    sysfs.device("0000:03:02.3", driver="vfio-pci")
    sysfs.iommu_group("0000:03:02.3", 43, "vfio-noiommu")
    pool = PoolConfig(
        resource="acme.io/dpdk-A",
        additional_info={"*": {"token": "a<b&c"}, "0000:03:02.3": {"token": "spec", "x": "y"}},
    )
    found = Reader(str(sysfs.root)).read().devices
    told = container_response(pool, list(found.values()), str(sysfs.root))
    assert dict(told.envs) == {
        "PCIDEVICE_ACME_IO_DPDK-A": "0000:03:02.2,0000:03:02.3",
        "PCIDEVICE_ACME_IO_DPDK-A_INFO": '{"0000:03:02.2":{"extra":{"token":"a\\u003cb\\u0026c"},'
        '"generic":{"deviceID":"0000:03:02.2"},"vfio":{"dev-mount":"/dev/vfio/42","mount":"/dev/vfio/vfio"}},'
        '"0000:03:02.3":{"extra":{"token":"spec","x":"y"},"generic":{"deviceID":"0000:03:02.3"},'
        '"vfio":{"dev-mount":"/dev/vfio/43","mount":"/dev/vfio/vfio"}}}',
    }
    assert nodes(told) == [
        ("/dev/vfio/vfio", "/dev/vfio/vfio", "rw"),
        ("/dev/vfio/42", "/dev/vfio/42", "rw"),
        ("/dev/vfio/43", "/dev/vfio/noiommu-43", "rw"),
    ]


def test_uio_vfs_have_their_nodes_at_the_first_allocation(sysfs: FakeSysfs) -> None:
    sysfs.device("0000:03:02.4", driver="igb_uio")
    sysfs.uio("0000:03:02.4", 7)
    sysfs.device("0000:03:02.5", driver="uio_pci_generic")
    sysfs.uio("0000:03:02.5", 8)
    devices = [netdev("0000:03:02.4", "igb_uio"), netdev("0000:03:02.5", "uio_pci_generic")]
    told = container_response(PoolConfig(resource="intel.com/uio"), devices, str(sysfs.root))
    assert told.envs["PCIDEVICE_INTEL_COM_UIO_INFO"] == (
        '{"0000:03:02.4":{"generic":{"deviceID":"0000:03:02.4"},"uio":{"mount":"/dev/uio7"}},'
        '"0000:03:02.5":{"generic":{"deviceID":"0000:03:02.5"},"uio":{"mount":"/dev/uio8"}}}'
    )
    assert nodes(told) == [("/dev/uio7", "/dev/uio7", "rw"), ("/dev/uio8", "/dev/uio8", "rw")]


def test_devices_are_named_in_the_order_of_the_request(sysfs: FakeSysfs) -> None:
    told = container_response(
        PoolConfig(resource="a.b/c"), [netdev("0000:03:02.1"), netdev("0000:03:02.0")], str(sysfs.root)
    )
    assert told.envs["PCIDEVICE_A_B_C"] == "0000:03:02.1,0000:03:02.0"


def test_devices_of_one_iommu_group_share_its_node(sysfs: FakeSysfs) -> None:
    devices = [netdev(f"0000:03:02.{number}", "vfio-pci", "42") for number in range(2)]
    told = container_response(PoolConfig(resource="a.b/c"), devices, str(sysfs.root))
    assert [node.host_path for node in told.devices] == ["/dev/vfio/vfio", "/dev/vfio/42"]


def test_additional_info_of_all_devices_counts_for_each_and_its_own_more(sysfs: FakeSysfs) -> None:
    info = {"*": {"test": "test", "bla": "bla"}, "0000:00:00.1": {"test": "test1"}}
    told = container_response(
        PoolConfig(resource="a.b/c", additional_info=info), [netdev("0000:00:00.1")], str(sysfs.root)
    )
    extra = json.loads(told.envs["PCIDEVICE_A_B_C_INFO"])["0000:00:00.1"]["extra"]
    assert extra == {"bla": "bla", "test": "test1"}


@pytest.mark.parametrize("driver", ["vfio-pci", "igb_uio", "uio", "uio_pci_generic"])
def test_device_without_its_drivers_node_is_refused(sysfs: FakeSysfs, driver: str) -> None:
    sysfs.device("0000:03:02.4", driver=driver)
    with pytest.raises(Error, match=r"device 0000:03:02\.4: on ") as caught:
        container_response(PoolConfig(resource="a.b/c"), [netdev("0000:03:02.4", driver)], str(sysfs.root))
    assert caught.value.kind == Kind.DEVICE


# Preferred devices

SPREAD = [netdev(f"0000:0{node}:00.{number}", node=node) for node in (0, 1) for number in range(3)]


def choose(size: int, *must: NetDevice, available: list[NetDevice] = SPREAD) -> list[str]:
    return preferred(available, must, size)


def test_lowest_devices_of_one_numa_node_are_preferred() -> None:
    assert choose(2) == ["0000:00:00.0", "0000:00:00.1"]
    assert choose(3, available=SPREAD[1:]) == ["0000:01:00.0", "0000:01:00.1", "0000:01:00.2"]


def test_numa_node_of_what_must_be_given_is_preferred() -> None:
    assert choose(3, SPREAD[4]) == ["0000:01:00.0", "0000:01:00.1", "0000:01:00.2"]


def test_more_than_one_node_has_are_on_as_few_nodes_as_can_be() -> None:
    third = [netdev("0000:02:00.0", node=2)]
    assert choose(5, available=[*SPREAD, *third]) == [
        "0000:00:00.0",
        "0000:00:00.1",
        "0000:00:00.2",
        "0000:01:00.0",
        "0000:01:00.1",
    ]


@pytest.mark.parametrize(("size", "must"), [(7, 0), (1, 2)])
def test_choice_that_cannot_be_is_refused(size: int, must: int) -> None:
    with pytest.raises(Error, match=f"{size} devices requested: {must} must be among them") as caught:
        choose(size, *SPREAD[:must])
    assert caught.value.kind == Kind.INVALID_CONFIG


@given(
    st.dictionaries(st.integers(0, 40), st.integers(-1, 3), max_size=12),
    st.data(),
)
def test_choice_has_what_must_be_given_and_is_always_the_same(
    nodes_of: dict[int, int], data: st.DataObject
) -> None:
    devices = [netdev(f"0000:00:{number:02x}.0", node=node) for number, node in nodes_of.items()]
    size = data.draw(st.integers(0, len(devices)))
    must = devices[: data.draw(st.integers(0, size))]
    chosen = preferred(devices, must, size)
    assert len(set(chosen)) == len(chosen) == size
    assert {device.address for device in must} <= set(chosen) <= {device.address for device in devices}
    shuffled = data.draw(st.permutations(devices))
    assert preferred(shuffled, must, size) == chosen
    by_node = [sum(device.numa_node == node for device in devices) for node in set(nodes_of.values())]
    if not must and size and max(by_node, default=0) >= size:
        assert len({device.numa_node for device in devices if device.address in chosen}) == 1


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_info_is_json_without_characters_of_html(info: dict[str, str]) -> None:
    told = container_response(
        PoolConfig(resource="a.b/c", additional_info={"*": info}), [netdev("0000:00:00.1")], "/none"
    )
    text = told.envs["PCIDEVICE_A_B_C_INFO"]
    assert json.loads(text)["0000:00:00.1"]["extra"] == info
    assert not set(text) & set("<>&\u2028\u2029")
