"""Representors in a fake sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.switchdev import SF, VF, representor

PF = "0000:18:00.1"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def port(sysfs: FakeSysfs, name: str, port_name: str, switch: str = "ab12") -> None:
    """A representor that is not a child device of the PF, as with some drivers."""
    sysfs.upper(name)
    sysfs.set_interface(name, "phys_port_name", port_name)
    sysfs.set_interface(name, "phys_switch_id", switch)


def test_a_representor_is_found_by_switch_function_and_number(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "eth4", phys_switch_id="ab12", phys_port_name="p1")
    port(sysfs, "a", "pf1vf3", switch="cd34")
    port(sysfs, "b", "pf0vf3")
    port(sysfs, "c", "pf1vf33")
    port(sysfs, "d", "pf1vf3")
    port(sysfs, "e", "c1pf1vf4")
    port(sysfs, "f", "pf1sf3")
    pf = PciDevice(PF, sysfs.root)
    found = [representor(pf, *of) for of in ((VF, 3), (VF, 4), (SF, 3), (SF, 4))]
    assert found == ["d", "e", "f", ""]


def test_a_pf_in_legacy_mode_has_none_whatever_other_switches_have(sysfs: FakeSysfs) -> None:
    sysfs.pf(PF, "eth4")
    port(sysfs, "a", "pf1vf3")
    assert representor(PciDevice(PF, sysfs.root), VF, 3) == ""


def test_a_pf_without_an_interface_has_none(sysfs: FakeSysfs) -> None:
    sysfs.device(PF)
    port(sysfs, "a", "pf1vf3")
    assert representor(PciDevice(PF, sysfs.root), VF, 3) == ""
