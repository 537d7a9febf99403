"""Plans for PFs: the steps from the current to the wanted state, and errors of the kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd

from tests import pfs
from tests.fakesysfs import FakeSysfs, vf_address
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig
from wirespeed.provision import eswitch, plan
from wirespeed.provision.facts import Pf
from wirespeed.provision.policy import Group, Wanted

PF = pfs.ADDRESS
WHERE = f"PF ens1f0 ({PF}): "


def pf(*drivers: str) -> Pf:
    """A PF with VFs bound to these drivers."""
    return replace(pfs.PF, vfs=tuple(pfs.vf(driver, index) for index, driver in enumerate(drivers)))


def group(*numbers: int, device_type: str = "netdevice") -> Group:
    return Group(resource="r", numbers=frozenset(numbers), device_type=device_type)


@pytest.mark.parametrize(
    ("now", "wanted", "steps"),
    [
        ((), Wanted(num_vfs=1), ["make 1 VFs"]),
        (("iavf",), Wanted(num_vfs=1), []),
        (("iavf",), Wanted(num_vfs=1, groups=(group(0),)), []),
        (("vfio-pci",), Wanted(num_vfs=1), []),  # in no group, so no state is wanted
        (("iavf", "vfio-pci"), Wanted(num_vfs=2, groups=(group(0),)), []),
        (("",), Wanted(num_vfs=1, groups=(group(0),)), [f"VF 0 ({vf_address(PF, 0)}): driver its own (now none)"]),
        ((), Wanted(num_vfs=0), []),
        (("iavf", "iavf"), Wanted(num_vfs=0), ["remove its 2 VFs"]),
    ],
)
def test_there_is_a_step_for_what_is_not_so_and_none_for_the_rest(
    now: tuple[str, ...], wanted: Wanted, steps: list[str]
) -> None:
    made = plan.make({PF: wanted}, [pf(*now)])
    assert [change.what for change in made.changes] == [WHERE + step for step in steps]
    assert made.refused == []


def test_pf_that_somebody_else_provides_for_gets_no_step_when_it_is_not_as_asked() -> None:
    wanted = Wanted(num_vfs=3, mtu=9000, externally_managed=True, groups=(group(0, device_type="vfio-pci"),))
    made = plan.make({PF: wanted}, [pf("iavf", "iavf")])
    assert made.changes == []
    with pytest.raises(
        Error, match=r"expected at least 3 VFs, got 2; .*expected an MTU of at least 9000, got 1500"
    ) as caught:
        plan.carry_out(made, NodeConfig())
    assert caught.value.kind == Kind.POLICY


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("folder", "sriov_numvfs 2: Is a directory"),
        ("gone", "sriov_numvfs 2: No such file or directory"),
        ("ignored", "sriov_numvfs: expected 2 VFs after it was written, got 0"),
    ],
)
def test_number_of_vfs_that_the_kernel_does_not_take_is_told(tmp_path: Path, fault: str, told: str) -> None:
    sysfs = FakeSysfs(tmp_path)
    sysfs.pf(PF, "ens1f0")
    file = sysfs.path(PF) / "sriov_numvfs"
    if fault == "folder":
        file.unlink()
        file.mkdir()
    if fault == "gone":
        sysfs.remove(PF)
    with pytest.raises(Error) as caught:
        plan.carry_out(plan.make({PF: Wanted(num_vfs=2)}, [pf()], sysfs.root), NodeConfig())
    assert caught.value.kind == Kind.DEVICE
    assert caught.value.msg.startswith(f"{WHERE}make 2 VFs: {told}; ")


class Devlink:
    """A kernel whose driver takes any eswitch mode, given by its number (uapi/linux/devlink.h)."""

    prid = 0

    def __init__(self, mode: int) -> None:
        self.mode = mode

    def __enter__(self) -> Devlink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nlm_request(self, message: Any, **_: object) -> list[Any]:
        if message["cmd"] == DEVLINK_NAMES["DEVLINK_CMD_ESWITCH_SET"]:
            self.mode = message.get_attr("DEVLINK_ATTR_ESWITCH_MODE")
            return []
        answer = devlinkcmd()
        answer["attrs"] = [("DEVLINK_ATTR_ESWITCH_MODE", self.mode)]
        return [answer]


@pytest.mark.parametrize(("number", "name"), [(0, "legacy"), (1, "switchdev"), (2, "switchdev_inactive"), (3, "3")])
def test_every_eswitch_mode_of_the_kernel_is_shown_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    devlink, device = Devlink(number), PciDevice(PF)
    monkeypatch.setattr(eswitch, "DL", lambda: devlink)
    assert eswitch.mode(device) == name
    wanted = "legacy" if number else "switchdev"
    now = replace(pf(), eswitch=eswitch.mode(device))
    sysfs = FakeSysfs(tmp_path)
    sysfs.pf(PF, "ens1f0")  # no VF appears when a number is written
    made = plan.make({PF: Wanted(num_vfs=1, eswitch=wanted)}, [now], sysfs.root)
    assert made.changes[0].what == f"{WHERE}eswitch mode {wanted} (now {name})"
    modes: list[int] = []
    with pytest.raises(Error, match=r"make 1 VFs: .*; the changes before it were undone"):
        plan.carry_out(made, NodeConfig(), lambda _number, _step: modes.append(devlink.mode))
    assert modes == [number, 0 if number else 1]
    assert devlink.mode == number
