"""Binding a device to another driver and back, and resetting it, in a fake sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices import drivers, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind

PF = "0000:18:00.0"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def vf_on(sysfs: FakeSysfs, driver: str) -> PciDevice:
    (address,) = sysfs.pf(PF, "eth4", vfs=1, vf_driver=driver)
    return PciDevice(address, sysfs.root)


def probed(sysfs: FakeSysfs) -> str:
    """The device written to drivers_probe, "" if none."""
    file = sysfs.root / "bus/pci/drivers_probe"
    return file.read_text() if file.exists() else ""


def test_a_device_that_is_on_the_driver_already_is_left_alone(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "vfio-pci")
    drivers.bind(device, "vfio-pci")
    assert (probed(sysfs), device.attribute("driver_override")) == ("", "(null)")
    assert not (device.path / "driver/unbind").exists()


def test_a_device_that_the_driver_does_not_take_keeps_its_own_and_no_override(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "iavf")
    (sysfs.root / "bus/pci/drivers/vfio-pci").mkdir()
    with pytest.raises(Error, match=f"device {device.address}: binding it to vfio-pci: it has iavf now") as failed:
        drivers.bind(device, "vfio-pci")
    assert failed.value.kind == Kind.DEVICE
    assert (device.path / "driver/unbind").read_text() == probed(sysfs) == device.address
    assert (device.driver, device.attribute("driver_override")) == ("iavf", "")


def test_a_device_without_a_driver_is_not_unbound_before_it_is_probed(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "")
    (sysfs.root / "bus/pci/drivers/vfio-pci").mkdir()
    with pytest.raises(Error, match="it has no driver now"):
        drivers.bind(device, "vfio-pci")
    assert probed(sysfs) == device.address


def test_a_device_that_is_not_there_and_a_driver_that_is_not_are_named(sysfs: FakeSysfs) -> None:
    (sysfs.root / "bus/pci/drivers/vfio-pci").mkdir()
    with pytest.raises(Error, match=r"device 0000:99:00.0: binding it to vfio-pci: driver_override: No such file"):
        drivers.bind(PciDevice("0000:99:00.0", sysfs.root), "vfio-pci")
    with pytest.raises(Error, match="there is no driver wirespeed_none: "):
        drivers.bind(vf_on(sysfs, "iavf"), "wirespeed_none")


@pytest.mark.parametrize("override", ["(null)", "vfio-pci"])
def test_an_override_that_a_cut_short_binding_left_is_what_it_was(sysfs: FakeSysfs, override: str) -> None:
    device = vf_on(sysfs, "iavf")
    sysfs.write(device.address, "driver_override", "mlx5_vfio_pci")
    drivers.put_back(device, "iavf", override)
    assert device.attribute("driver_override") == override.replace("(null)", "")


def test_a_device_that_had_no_driver_gets_none(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "vfio-pci")
    drivers.put_back(device, "", "(null)")
    assert (device.path / "driver/unbind").read_text() == device.address


@pytest.mark.parametrize("there", ["mlx5_core", ""])
def test_a_driver_takes_a_device_again_also_when_it_had_given_it_up_before(sysfs: FakeSysfs, there: str) -> None:
    device = vf_on(sysfs, "mlx5_core")
    sysfs.bind(device.address, there)
    drivers.reprobe(device, "mlx5_core")
    folder = sysfs.root / "bus/pci/drivers/mlx5_core"
    assert (folder / "unbind").exists() == bool(there)
    assert (folder / "bind").read_text() == device.address


def test_a_driver_that_does_not_take_a_device_again_is_named(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "mlx5_core")
    (sysfs.root / "bus/pci/drivers/mlx5_core/bind").mkdir()
    with pytest.raises(Error, match=f"device {device.address}: binding it to mlx5_core again: Is a directory"):
        drivers.reprobe(device, "mlx5_core")


def test_a_device_is_reset_where_it_offers_that(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "uio_pci_generic")
    drivers.reset(device)
    assert not (device.path / "reset").exists()
    sysfs.write(device.address, "reset", "")
    drivers.reset(device)
    assert (device.path / "reset").read_text() == "1"


def test_a_reset_that_fails_names_the_device(sysfs: FakeSysfs) -> None:
    device = vf_on(sysfs, "uio_pci_generic")
    (device.path / "reset").mkdir()
    with pytest.raises(Error, match=f"device {device.address}: reset: Is a directory") as failed:
        drivers.reset(device)
    assert failed.value.kind == Kind.DEVICE


def has_open(proc: Path, process: str, node: str) -> None:
    """Make a process that has a node open, as shown in /proc."""
    (proc / process / "fd").mkdir(parents=True)
    (proc / process / "fd/3").symlink_to(node)
    (proc / process / "comm").write_text("dpdk-testpmd\n")


def test_who_has_a_node_of_a_device_open_is_told(tmp_path: Path) -> None:
    for process, node in (("10", "/dev/vfio/42"), ("11", "/dev/vhost-vdpa-3"), ("12", "/dev/vhost-net")):
        has_open(tmp_path, process, node)
    assert vfio.users(tmp_path) == {
        "/dev/vfio/42": "process 10 (dpdk-testpmd)",
        "/dev/vhost-vdpa-3": "process 11 (dpdk-testpmd)",
    }


@pytest.mark.parametrize(
    ("driver", "node", "used"),
    [
        ("vfio-pci", "/dev/vfio/42", True),
        # without an IOMMU; inside a container the node has the other name
        ("vfio-pci", "/dev/vfio/noiommu-42", True),
        ("vfio-pci", "/dev/vfio/devices/vfio3", True),  # with iommufd
        ("mlx5_vfio_pci", "/dev/vfio/devices/vfio3", True),
        ("uio_pci_generic", "/dev/uio1", True),
        ("vfio-pci", "/dev/vfio/vfio", False),
        ("vfio-pci", "/dev/vfio/4", False),
        ("vfio-pci", "/dev/vfio/devices/vfio33", False),
        ("uio_pci_generic", "/dev/uio11", False),
        ("iavf", "/dev/vfio/42", False),  # another device of the group is open
    ],
)
def test_an_application_that_drives_a_device_is_known_by_any_of_its_nodes(
    sysfs: FakeSysfs, tmp_path: Path, driver: str, node: str, used: bool
) -> None:
    device = vf_on(sysfs, driver)
    sysfs.iommu_group(device.address, 42)
    if "vfio" in driver:
        sysfs.vfio_device(device.address, 3)
    if "uio" in driver:
        sysfs.uio(device.address, 1)
    has_open(tmp_path / "proc", "10", node)
    assert vfio.user_of(device, tmp_path / "proc") == ("process 10 (dpdk-testpmd)" if used else "")
