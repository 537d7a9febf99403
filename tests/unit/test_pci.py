"""PCI devices in a fake sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirespeed.devices.pci import PciDevice

PF = "0000:af:00.1"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A PF whose VFs 0 to 9 have offset 240 and stride 2, as igb's do, so that they cross from bus af to b0."""
    devices = tmp_path / "bus/pci/devices"
    pf = devices / PF
    pf.mkdir(parents=True)
    (pf / "sriov_offset").write_text("240\n")
    (pf / "sriov_stride").write_text("2\n")
    for number, vf in enumerate(vf_addresses()):
        (devices / vf).mkdir()
        (devices / vf / "physfn").symlink_to(f"../{PF}")
        (pf / f"virtfn{number}").symlink_to(f"../{vf}")
    return tmp_path


def vf_addresses() -> list[str]:
    ids = [(0xAF << 8 | 1) + 240 + 2 * number for number in range(10)]
    return [f"0000:{n >> 8:02x}:{n >> 3 & 31:02x}.{n & 7}" for n in ids]


@pytest.mark.parametrize("number", range(10))
def test_a_vf_knows_its_number_also_on_the_next_bus(sysfs: Path, number: int) -> None:
    assert PciDevice(vf_addresses()[number], sysfs).vf_index == number


def test_the_number_is_found_where_the_kernel_tells_no_offset(sysfs: Path) -> None:
    (sysfs / "bus/pci/devices" / PF / "sriov_offset").unlink()
    assert PciDevice(vf_addresses()[7], sysfs).vf_index == 7


def test_the_links_count_more_than_the_spacing(sysfs: Path) -> None:
    (sysfs / "bus/pci/devices" / PF / "sriov_stride").write_text("1\n")
    assert PciDevice(vf_addresses()[3], sysfs).vf_index == 3


def test_what_is_no_vf_has_no_number(sysfs: Path) -> None:
    assert PciDevice(PF, sysfs).vf_index == -1


def interface(sysfs: Path, name: str, port_name: str = "") -> None:
    folder = sysfs / "bus/pci/devices" / PF / "net" / name
    folder.mkdir(parents=True)
    (folder / "phys_port_name").write_text(port_name)


def test_a_pf_in_switchdev_mode_is_not_taken_for_its_representors(sysfs: Path) -> None:
    for name, port_name in (("a0", "pf0vf0"), ("a1", "c1pf0vf1"), ("a2", "pf0sf88"), ("zz", "p0")):
        interface(sysfs, name, port_name)
    assert PciDevice(PF, sysfs).own_netdev == "zz"


def test_an_interface_that_is_no_representor_is_the_pfs_own_without_an_uplink(sysfs: Path) -> None:
    for name, port_name in (("a0", "pf0vf0"), ("b0", "p0"), ("b1", ""), ("zz", "pf0vf1")):
        interface(sysfs, name, port_name)
    assert PciDevice(PF, sysfs).own_netdev == "b0"
    (sysfs / "bus/pci/devices" / PF / "net/b1/phys_port_name").write_text("p1")
    (sysfs / "bus/pci/devices" / PF / "net/b1/phys_switch_id").write_text("ab12")
    assert PciDevice(PF, sysfs).own_netdev == "b1"


def test_a_pf_without_an_interface_has_none(sysfs: Path) -> None:
    assert PciDevice(PF, sysfs).own_netdev == ""
    interface(sysfs, "ens1")
    assert PciDevice(PF, sysfs).own_netdev == "ens1"


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "igb_uio"])
def test_devices_on_user_space_drivers_are_known(sysfs: Path, driver: str) -> None:
    device = PciDevice(vf_addresses()[0], sysfs)
    (device.path / "driver").symlink_to(f"../../drivers/{driver}")
    assert device.is_in_user_space


def test_a_vendors_own_vfio_driver_is_known_by_what_it_makes(sysfs: Path) -> None:
    device = PciDevice(vf_addresses()[0], sysfs)
    (device.path / "driver").symlink_to("../../drivers/mlx5_vfio_pci")
    assert not device.is_in_user_space
    (device.path / "vfio-dev").mkdir()
    assert device.is_in_user_space
