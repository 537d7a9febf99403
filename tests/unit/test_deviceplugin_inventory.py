"""The node's network devices, read from a fake sysfs: their attributes, and which are left out and why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices.inventory import Inventory, NetDevice, Reader

PF = "0000:18:00.0"
VF0, VF1, VF2 = (f"0000:19:00.{number}" for number in range(3))


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def read(sysfs: FakeSysfs, *default_routes: str) -> Inventory:
    return Reader(str(sysfs.root)).read(default_routes)


def test_vf_is_all_that_sysfs_says(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2, numa=1)
    assert read(sysfs).devices[VF1] == NetDevice(
        address=VF1,
        vendor="8086",
        device="1889",
        driver="iavf",
        numa_node=1,
        iommu_group="6401",
        pf=PF,
        pf_name="ens1f0",
        vf_index=1,
        link_type="ether",
    )


def test_pf_with_vfs_is_left_out_and_without_it_is_a_device(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=3)
    sysfs.pf("0000:3b:00.0", "ens2f0", vfs=0)
    found = read(sysfs)
    assert found.left_out == {PF: "a PF with 3 VFs"}
    assert set(found.devices) == {VF0, VF1, VF2, "0000:3b:00.0"}
    assert found.devices["0000:3b:00.0"].pf == ""
    sysfs.set_vfs(PF, 0)
    assert set(read(sysfs).devices) == {PF, "0000:3b:00.0"}


@pytest.mark.parametrize("pci_class", ["0x010802", "0x060400", "0x02", "", "network", "0xgg0000"])
def test_what_is_no_network_controller_is_not_seen(sysfs: FakeSysfs, pci_class: str) -> None:
    sysfs.device(PF, driver="ice", name="ens1f0", pci_class=pci_class)
    assert read(sysfs) == Inventory()


def test_infiniband_controller_is_a_network_controller(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="mlx5_core", name="ib0", pci_class="0x020700", link_type=32)
    assert read(sysfs).devices[PF].link_type == "infiniband"


def test_device_without_a_driver_is_left_out(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2)
    sysfs.bind(VF0, "")
    assert read(sysfs).left_out == {PF: "a PF with 2 VFs", VF0: "no driver is bound"}


@pytest.mark.parametrize(
    ("attribute", "node"), [("1", 1), ("0", 0), ("-1", -1), (None, -1), ("somewhere", -1), ("", -1)]
)
def test_numa_node(sysfs: FakeSysfs, attribute: str | None, node: int) -> None:
    sysfs.device(PF, driver="ice", numa=attribute)
    assert read(sysfs).devices[PF].numa_node == node


# Default routes


def test_device_whose_interface_has_a_default_route_is_left_out(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="ice", name="ens1f0")
    assert read(sysfs, "ens1f0").left_out == {PF: "its interface ens1f0 carries a default route"}
    assert set(read(sysfs, "other0").devices) == {PF}


def test_vf_whose_interface_has_a_default_route_is_left_out_alone(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2)
    found = read(sysfs, "ens1f0v1")
    assert set(found.devices) == {VF0}
    assert found.left_out[VF1] == "its interface ens1f0v1 carries a default route"


def test_devices_below_an_interface_with_a_default_route_are_left_out(sysfs: FakeSysfs) -> None:
    for number in range(3):
        sysfs.device(f"0000:18:00.{number}", driver="ice", name=f"ens{number}")
    sysfs.upper("bond0", "ens0", "ens1")
    sysfs.upper("bond0.100", "bond0")
    sysfs.upper("br-ex", "bond0.100")
    found = read(sysfs, "br-ex")
    assert set(found.devices) == {"0000:18:00.2"}
    assert found.left_out == {
        "0000:18:00.0": "its interface ens0 carries the default route of br-ex",
        "0000:18:00.1": "its interface ens1 carries the default route of br-ex",
    }


def test_ports_of_open_vswitch_are_left_out_with_a_default_route_on_its_internal_port(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="ice", name="ens1f0")
    sysfs.device("0000:3b:00.0", driver="ice", name="ens2f0")
    sysfs.upper("ovs-system", "ens1f0")
    sysfs.upper("br-ex")
    assert set(read(sysfs, "br-ex").devices) == {"0000:3b:00.0"}


def test_interfaces_above_each_other_in_a_circle_are_looked_at_once(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="ice", name="ens1f0")
    sysfs.upper("a0", "ens1f0")
    sysfs.upper("b0", "a0")
    (sysfs.root / "class/net/a0" / "lower_b0").symlink_to("../b0")
    assert set(read(sysfs, "b0").left_out) == {PF}


def test_virtio_device_with_a_default_route_is_left_out(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="virtio-pci")
    virtio = sysfs.path(PF) / "virtio0"
    (virtio / "net/eth0").mkdir(parents=True)
    (virtio / "net/eth0/device").symlink_to("../..")
    (virtio / "net/eth0/type").write_text("1\n")
    (sysfs.root / "class/net/eth0").symlink_to(virtio / "net/eth0")
    assert read(sysfs).devices[PF].link_type == "ether"
    assert set(read(sysfs, "eth0").left_out) == {PF}


# Names of PFs and numbers of VFs


def test_vf_of_a_pf_without_an_interface_has_no_pf_name(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=1)
    sysfs.drop_interface("ens1f0")
    assert read(sysfs).devices[VF0].pf_name == ""
    shutil.rmtree(sysfs.path(PF) / "net")
    assert read(sysfs).devices[VF0].pf_name == ""
    (sysfs.path(PF) / "net").write_text("a file")
    assert read(sysfs).devices[VF0].pf_name == ""


def test_pf_in_switchdev_mode_is_named_by_its_uplink(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "zz_uplink", vfs=1, phys_switch_id="ab12", phys_port_name="p0")
    sysfs.interface(PF, "aa_rep0", phys_switch_id="ab12", phys_port_name="pf0vf0")
    assert read(sysfs).devices[VF0].pf_name == "zz_uplink"


def test_number_of_a_vf_is_that_of_its_pfs_link(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2)
    path = sysfs.path(PF)
    (path / "virtfn1").rename(path / "virtfn7")
    assert read(sysfs).devices[VF1].vf_index == 7
    (path / "virtfn7").unlink()
    assert read(sysfs).devices[VF1].vf_index == -1
    (path / "virtfn0").unlink()
    assert read(sysfs).devices[VF0].vf_index == -1
    assert read(sysfs).devices[VF0].pf_name == "ens1f0"


# Devices in pods


def test_vf_on_vfio_or_in_a_pod_has_the_link_type_of_its_pf(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ib0", vfs=2, link_type=32)
    sysfs.bind(VF0, "vfio-pci")
    sysfs.drop_interface("ib0v0")
    sysfs.drop_interface("ib0v1")
    assert {device.link_type for device in read(sysfs).devices.values()} == {"infiniband"}


def test_link_type_is_remembered_while_the_interface_is_in_a_pod(sysfs: FakeSysfs) -> None:
    sysfs.device(PF, driver="ice", name="ens1f0")
    reader = Reader(str(sysfs.root))
    before = reader.read().devices[PF]
    sysfs.drop_interface("ens1f0")
    assert reader.read().devices[PF] == reader.read_one(PF) == before


# Reading a single device


def test_one_device_is_read_as_it_is_now(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2)
    reader = Reader(str(sysfs.root))
    found = reader.read()
    assert reader.read_one(VF0) == found.devices[VF0]
    assert reader.read_one(PF) == "a PF with 2 VFs"
    sysfs.bind(VF0, "")
    assert reader.read_one(VF0) == "no driver is bound"
    sysfs.remove(VF1)
    assert reader.read_one(VF1) is None


def test_one_vf_is_found_however_the_pf_spaces_its_vfs(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "ens1f0", vfs=9)
    reader = Reader(str(sysfs.root))
    found = reader.read().devices
    for offset, stride in (("256", "1"), ("255", "1"), ("256", "2"), ("0", "0"), ("", ""), ("a", "b")):
        sysfs.write(PF, "sriov_offset", offset)
        sysfs.write(PF, "sriov_stride", stride)
        assert {address: reader.read_one(address) for address in found} == found


def test_one_vf_is_read_without_its_pfs_representors(sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs.pf(PF, "ens1f0", vfs=2, phys_switch_id="ab12", phys_port_name="p0")
    for number in range(128):
        sysfs.interface(PF, f"ens1f0r{number}", phys_switch_id="ab12", phys_port_name=f"pf0vf{number}")
    opened = []

    def counted_open(path: str, flags: int) -> int:
        opened.append(path)
        return os_open(path, flags)

    os_open = os.open
    monkeypatch.setattr(os, "open", counted_open)
    device = Reader(str(sysfs.root)).read_one(VF0)
    assert isinstance(device, NetDevice)
    assert device.pf_name == "ens1f0"
    assert len(opened) == 10


def test_node_without_pci_has_no_devices(tmp_path: Path) -> None:
    assert Reader(str(tmp_path)).read(["eth0"]) == Inventory()
