"""Which conditions are a fault of a device, and when the fault ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin.health import REASONS, Fault, Health
from wirespeed.devices.inventory import Inventory, NetDevice, Reader

PF, VF, OTHER_VF = "0000:18:00.0", "0000:19:00.0", "0000:19:00.1"
ERRORS = "Undefined 0\nDLP {0}\nTOTAL_ERR_FATAL {0}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """A fake sysfs with a PF and two VFs, and the Health that reads it."""

    def __init__(self, folder: Path) -> None:
        self.sysfs = FakeSysfs(folder / "sys")
        self.sysfs.pf(PF, "ens1f0", vfs=2)
        self.vfio = folder / "dev/vfio"
        self.vfio.mkdir(parents=True)
        self.clock = Clock()
        self.reporters: dict[str, list[str]] = {}  # devlink reporters in error
        self.health = Health(str(self.sysfs.root), reporters=lambda: self.reporters, clock=self.clock)
        self.was = self.devices()[VF]

    def read(self) -> Inventory:
        return Reader(str(self.sysfs.root)).read()

    def devices(self) -> dict[str, NetDevice]:
        return self.read().devices

    def fault(self, wanted: tuple[str, ...] = REASONS) -> Fault | None:
        devices = self.devices()
        self.health.refresh(devices)
        return self.health.fault(devices[VF], wanted)

    def lost(self, wanted: tuple[str, ...] = REASONS) -> Fault | None:
        return self.health.lost(self.was, self.read(), wanted)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_device_whose_host_tells_nothing_is_healthy(lab: Lab) -> None:
    assert lab.fault() is None
    assert not lab.health.needs_refresh()


@pytest.mark.parametrize(
    ("flags", "state", "text"),
    [
        ("0x1003", "up", ""),
        ("0x1003", "unknown", ""),
        ("0x1003", "down", "PF ens1f0 has no carrier"),
        ("0x1003", "lowerlayerdown", "PF ens1f0 has no carrier"),
        ("0x1002", "down", "PF ens1f0 is down"),
    ],
)
def test_link_of_the_pf_counts(lab: Lab, flags: str, state: str, text: str) -> None:
    assert lab.fault() is None
    lab.sysfs.set_interface("ens1f0", "flags", flags)
    lab.sysfs.set_interface("ens1f0", "operstate", state)
    assert lab.health.needs_refresh() == bool(text)
    assert lab.fault() == (Fault("link", text) if text else None)
    assert not lab.health.needs_refresh()
    assert lab.fault(("pcie", "vfio")) is None


def test_vf_whose_interface_is_in_a_pod_is_healthy(lab: Lab) -> None:
    lab.sysfs.drop_interface("ens1f0v0")
    assert lab.fault() is None


def test_pf_that_is_given_itself_may_be_down(lab: Lab) -> None:
    lab.sysfs.device("0000:3b:00.0", driver="ice", name="ens2f0")
    lab.sysfs.set_interface("ens2f0", "operstate", "down")
    devices = lab.devices()
    lab.health.refresh(devices)
    assert lab.health.fault(devices["0000:3b:00.0"], REASONS) is None


@pytest.mark.parametrize("broken", [PF, VF])
def test_fatal_pcie_error_counts_for_a_minute_after_the_last_one(lab: Lab, broken: str) -> None:
    def told(count: int) -> Fault:
        return Fault("pcie", f"{broken}: fatal PCIe error ({count} since boot)")

    lab.sysfs.write(broken, "aer_dev_fatal", ERRORS.format(3))
    assert lab.fault() is None  # older errors do not count
    lab.sysfs.write(broken, "aer_dev_fatal", ERRORS.format(4))
    assert lab.fault() == told(4)
    lab.clock.now += 59
    lab.sysfs.write(broken, "aer_dev_fatal", ERRORS.format(5))
    assert lab.fault() == told(5)
    lab.clock.now += 59
    assert lab.fault() == told(5)
    assert not lab.health.needs_refresh()
    lab.clock.now += 1
    assert lab.health.needs_refresh()
    assert lab.fault() is None
    assert not lab.health.needs_refresh()


def test_pfs_error_is_seen_without_a_notice(lab: Lab) -> None:
    lab.sysfs.write(PF, "aer_dev_fatal", ERRORS.format(0))
    assert lab.fault() is None
    assert not lab.health.needs_refresh()
    lab.sysfs.write(PF, "aer_dev_fatal", ERRORS.format(1))
    assert lab.health.needs_refresh()


def test_errors_of_a_device_that_left_are_forgotten(lab: Lab) -> None:
    lab.sysfs.write(VF, "aer_dev_fatal", ERRORS.format(0))
    assert lab.fault() is None
    lab.sysfs.write(VF, "aer_dev_fatal", ERRORS.format(1))
    assert lab.fault() is not None
    lab.health.refresh({})
    lab.clock.now += 3600
    assert not lab.health.needs_refresh()


def test_pf_whose_registers_are_all_ones_does_not_answer(lab: Lab) -> None:
    (lab.sysfs.path(VF) / "config").write_bytes(b"\xff\xff\xff\xff")  # as for every VF
    (lab.sysfs.path(PF) / "config").write_bytes(b"\x86\x80\x92\x15")
    assert lab.fault() is None
    (lab.sysfs.path(PF) / "config").write_bytes(b"\xff\xff\xff\xff")
    assert lab.health.needs_refresh()
    assert lab.fault() == Fault("pcie", f"{PF} does not answer")


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({PF: ["fw_fatal"]}, f"{PF}: health reporter fw_fatal is in error"),
        ({PF: ["fw_fatal", "tx"]}, f"{PF}: health reporter fw_fatal, tx is in error"),
        ({PF: ["fw_fatal"], VF: ["tx"]}, f"{VF}: health reporter tx is in error"),
        ({OTHER_VF: ["tx"], "0000:3b:00.0": ["fw_fatal"]}, ""),
    ],
)
def test_health_reporter_of_the_vf_or_its_pf_counts(lab: Lab, broken: dict[str, list[str]], text: str) -> None:
    lab.reporters = broken
    assert lab.fault() == (Fault("devlink", text) if text else None)
    assert lab.fault(("pcie", "vfio", "link")) is None
    lab.reporters = {}
    assert lab.fault() is None


def test_health_reporter_of_a_scalable_function_or_its_pf_counts(lab: Lab) -> None:
    lab.sysfs.pf("0000:3b:00.0", "ens2f0")
    name = lab.sysfs.function("0000:3b:00.0", "mlx5_core.sf.4", 88)
    for address in (name, "0000:3b:00.0"):
        lab.reporters = {address: ["rx"]}
        devices = lab.devices()
        lab.health.refresh(devices)
        expected = Fault("devlink", f"{address}: health reporter rx is in error")
        assert lab.health.fault(devices[name], REASONS) == expected


def test_vfio_device_needs_the_node_of_its_group(lab: Lab) -> None:
    lab.sysfs.bind(VF, "vfio-pci")
    node = lab.vfio / lab.devices()[VF].iommu_group
    assert lab.fault() == Fault("vfio", f"no node {node}")
    node.touch()
    assert lab.fault() is None
    lab.sysfs.iommu_group(VF, 77, "vfio-noiommu")
    assert lab.fault() == Fault("vfio", f"no node {lab.vfio}/noiommu-77")
    (lab.vfio / "noiommu-77").touch()
    assert lab.fault() is None


def test_nodes_of_the_host_are_sought_where_mounts_name_them() -> None:
    assert Health("/sys").vfio == "/dev/vfio"
    assert Health("/host/sys/").vfio == "/host/dev/vfio"


def test_nodes_are_not_asked_for_where_there_is_no_dev(lab: Lab) -> None:
    lab.sysfs.bind(VF, "vfio-pci")
    lab.vfio.rmdir()
    lab.vfio.parent.rmdir()
    assert lab.fault() is None


@pytest.mark.parametrize(
    ("driver", "viable"), [("iavf", False), ("vfio-pci", True), ("mlx5_vfio_pci", True), ("", True)]
)
def test_group_with_a_neighbour_on_a_kernel_driver_is_not_viable(lab: Lab, driver: str, viable: bool) -> None:
    for address in (VF, OTHER_VF):
        lab.sysfs.iommu_group(address, 5)
    (lab.vfio / "5").touch()
    lab.sysfs.bind(VF, "vfio-pci")
    lab.sysfs.bind(OTHER_VF, driver)
    told = None if viable else Fault("vfio", f"IOMMU group 5 is not viable: {OTHER_VF} in it is on {driver}")
    assert lab.fault() == told


LOSSES: list[tuple[Callable[[Lab], object], Fault | None]] = [
    (lambda lab: lab.sysfs.bind(VF, ""), Fault("driver", "no driver is bound; it had iavf")),
    (lambda lab: lab.sysfs.bind(VF, "ice"), Fault("driver", "driver ice is bound; it had iavf")),
    (lambda lab: lab.sysfs.remove(VF), Fault("gone", f"gone, although its PF {PF} still lists it")),
    (lambda lab: lab.sysfs.set_vfs(PF, 0), None),
    (lambda _: None, None),
]


def test_lost_vfs_are_looked_up_without_listing_all_vfs_of_their_pf(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sysfs.remove(VF)
    found = lab.read()

    def refuse(path: str) -> list[str]:
        raise AssertionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert lab.health.lost(lab.was, found, REASONS) == Fault("gone", f"gone, although its PF {PF} still lists it")


@pytest.mark.parametrize(("change", "expected"), LOSSES)
def test_what_a_pool_has_lost_is_a_fault_unless_somebody_meant_it(
    lab: Lab, change: Callable[[Lab], object], expected: Fault | None
) -> None:
    change(lab)
    assert lab.lost() == expected
    assert lab.lost(("link",)) is None


def test_vf_that_goes_with_its_pf_or_the_pfs_driver_is_gone(lab: Lab) -> None:
    lab.sysfs.set_vfs(PF, 0)
    lab.sysfs.bind(PF, "")
    assert lab.lost() == Fault("gone", f"gone, because its PF {PF} has no driver")
    lab.sysfs.remove(PF)
    assert lab.lost() == Fault("gone", f"gone with its PF {PF}")
