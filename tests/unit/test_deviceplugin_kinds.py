"""Devices of other kinds than plain network devices, and their RDMA and vdpa devices, read from a fake sysfs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.pools import assign, explain
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import Inventory, NetDevice, Reader

PF, CARD = "0000:18:00.0", "0000:3b:00.0"
VF0, VF1 = "0000:19:00.0", "0000:19:00.1"
SF = "mlx5_core.sf.4"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def read(sysfs: FakeSysfs, *default_routes: str) -> Inventory:
    return Reader(str(sysfs.root)).read(default_routes)


def members(pool: PoolConfig, found: Inventory) -> list[str]:
    return sorted(assign([pool], found)[pool.resource])


# Accelerators


def test_accelerator_is_a_device_of_its_own_kind(sysfs: FakeSysfs) -> None:
    sysfs.device(CARD, driver="vfio-pci", pci_class="0x120000", device="0d5d", numa=1, iommu_group=7)
    sysfs.device(PF, driver="ice", name="ens1f0")
    found = read(sysfs)
    assert found.devices[CARD] == NetDevice(
        address=CARD,
        vendor="8086",
        device="0d5d",
        driver="vfio-pci",
        numa_node=1,
        iommu_group="7",
        kind="accelerator",
    )
    assert Reader(str(sysfs.root)).read_one(CARD) == found.devices[CARD]
    assert members(PoolConfig(resource="a.b/fec", kind="accelerator"), found) == [CARD]
    assert members(PoolConfig(resource="a.b/net"), found) == [PF]


def test_accelerator_whose_vfs_are_given_is_left_out(sysfs: FakeSysfs) -> None:
    sysfs.pf(CARD, "none", vfs=2, driver="vfio-pci", vf_driver="vfio-pci")
    for address in (CARD, VF0.replace("19", "3c"), VF1.replace("19", "3c")):
        sysfs.write(address, "class", "0x120000")
    found = read(sysfs)
    assert found.left_out == {CARD: "a PF with 2 VFs"}
    assert {device.kind for device in found.devices.values()} == {"accelerator"}


def test_table_says_that_a_device_is_of_another_kind(sysfs: FakeSysfs) -> None:
    sysfs.device(CARD, driver="vfio-pci", pci_class="0x120000")
    (explained,) = explain([PoolConfig(resource="a.b/net")], read(sysfs))
    assert explained.reason == "in none: a.b/net deviceType: accelerator is not netDevice"


# Scalable functions


def with_function(sysfs: FakeSysfs, name: str = SF) -> Path:
    sysfs.device(PF, driver="mlx5_core", vendor="15b3", device="101d", numa=1)
    sysfs.interface(PF, "zz_uplink", phys_switch_id="ab12", phys_port_name="p0")
    sysfs.interface(PF, "aa_rep", phys_switch_id="ab12", phys_port_name="pf0sf88")
    sysfs.function(PF, name, 88)
    return sysfs.path(PF) / name


def test_scalable_function_has_what_its_pf_has_and_a_number(sysfs: FakeSysfs) -> None:
    with_function(sysfs)
    found = read(sysfs)
    assert found.devices[SF] == NetDevice(
        address=SF,
        vendor="15b3",
        device="101d",
        driver="mlx5_core",
        numa_node=1,
        pf=PF,
        pf_name="zz_uplink",
        vf_index=88,
        link_type="ether",
        kind="auxNetDevice",
    )
    assert Reader(str(sysfs.root)).read_one(SF) == found.devices[SF]


def test_pf_with_scalable_functions_is_left_out(sysfs: FakeSysfs) -> None:
    with_function(sysfs)
    assert read(sysfs).left_out == {PF: "a PF with 1 scalable functions"}


@pytest.mark.parametrize(
    "name", ["driver_name.type.id", "driver_name.sf.-4", "mlx5_core.eth.4", "mlx5_core.rdma.4"]
)
def test_other_auxiliary_device_is_no_scalable_function(sysfs: FakeSysfs, name: str) -> None:
    with_function(sysfs, name)
    assert set(read(sysfs).devices) == {PF}


def test_scalable_function_of_a_pf_without_a_driver_is_left_out(sysfs: FakeSysfs) -> None:
    with_function(sysfs)
    sysfs.bind(PF, "")
    assert read(sysfs).left_out[SF] == "no driver is bound to its PF"


def test_scalable_function_below_a_default_route_is_left_out_alone(sysfs: FakeSysfs) -> None:
    folder = with_function(sysfs)
    sysfs.function(PF, "mlx5_core.sf.5", 89)
    (folder / "net/enp1s88").mkdir(parents=True)
    (folder / "net/enp1s88/device").symlink_to("../..")
    (sysfs.root / "class/net/enp1s88").symlink_to(folder / "net/enp1s88")
    found = read(sysfs, "enp1s88")
    assert found.left_out[SF] == "its interface enp1s88 carries a default route"
    assert set(found.devices) == {"mlx5_core.sf.5"}


def test_scalable_functions_are_taken_by_their_pf_and_number(sysfs: FakeSysfs) -> None:
    with_function(sysfs)
    sysfs.function(PF, "mlx5_core.sf.5", 89)
    found = read(sysfs)
    for taking in (
        Selectors(pf_names=selectors.pf_names(["zz_uplink#89"])),
        Selectors(root_devices=selectors.root_devices([f"{PF}#89"])),
    ):
        pool = PoolConfig(resource="a.b/sf", kind="auxNetDevice", selectors=(taking,))
        assert members(pool, found) == ["mlx5_core.sf.5"]
        assert members(dataclasses.replace(pool, kind="netDevice"), found) == []


# RDMA


def test_device_with_rdma_devices_has_their_names_and_partition_key(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ib0", vfs=2, link_type=32)
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2, pkey="0x8001")
    found = read(sysfs).devices
    assert (found[VF0].rdma, found[VF0].has_rdma, found[VF0].pkey) == (("mlx5_2",), True, "0x8001")
    assert (found[VF1].rdma, found[VF1].has_rdma, found[VF1].pkey) == ((), False, "")


def test_partition_key_is_that_of_infiniband_only(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=1)
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2, pkey="0x8001")
    assert read(sysfs).devices[VF0].pkey == ""


def test_rdma_device_is_remembered_while_it_is_in_a_pod_with_the_interface(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=1)
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2)
    reader = Reader(str(sysfs.root))
    before = reader.read().devices[VF0]
    shutil.rmtree(sysfs.path(VF0) / "infiniband")
    now = reader.read_one(VF0)
    assert isinstance(now, NetDevice)
    assert not now.has_rdma  # its interface is on the host, so the RDMA device is really gone
    sysfs.drop_interface("ens1f0v0")
    assert reader.read().devices[VF0] == before


def test_scalable_function_has_the_rdma_device_of_its_own(sysfs: FakeSysfs) -> None:
    sysfs.rdma(with_function(sysfs), "mlx5_4", number=4)
    assert read(sysfs).devices[SF].rdma == ("mlx5_4",)


# vdpa, ACPI


def test_device_has_its_first_vdpa_device(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2)
    sysfs.vdpa(sysfs.path(VF0), "vdpa0", "vhost_vdpa")
    sysfs.vdpa(sysfs.path(VF0), "vdpa1", "virtio_vdpa")
    found = read(sysfs).devices
    assert (found[VF0].vdpa, found[VF0].vdpa_driver) == ("vdpa0", "vhost")
    assert found[VF1].vdpa == ""
    assert Reader(str(sysfs.root)).read_one(VF0) == found[VF0]


def test_acpi_index_is_the_firmwares(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="ice")
    sysfs.write(PF, "acpi_index", "101")
    assert read(sysfs).devices[PF].acpi_index == "101"
