"""Scalable functions on a fake auxiliary bus: how one is found, and its attributes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices import functions, settings, snapshot
from wirespeed.devices.restore import restore
from wirespeed.devices.vf import find
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity

PF, NAME = "0000:18:00.0", "mlx5_core.sf.4"
LINK = Link(index=9, name="enp24s0f0s88", mac="02:00:00:00:00:01", mtu=1500, flags=0, parent=NAME)


class Host(Rtnl):
    """A host whose only interface is that of the function."""

    def __init__(self) -> None:
        """It opens no socket."""

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        return LINK if name in (LINK.name, LINK.index) else None


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    made = FakeSysfs(tmp_path)
    made.pf(PF, "eth4", driver="mlx5_core")
    return made


def test_a_scalable_function_is_found_with_its_interface(sysfs: FakeSysfs) -> None:
    sysfs.function(PF, NAME, 88, interface=LINK.name)
    vf = find(Host(), functions.of_id(NAME, sysfs.root))
    assert (vf.link, vf.pf.address, vf.index, vf.settings) == (LINK, PF, 88, VfSettings())
    assert vf.where == (f"scalable function {NAME} (scalable function 88 of PF {PF}, driver mlx5_core.sf)")
    assert vf.pci_address == ""
    assert settings.apply(Host(), vf, VfSettings()) == VfSettings()


def test_one_without_an_interface_on_the_host_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.function(PF, NAME, 88)
    with pytest.raises(
        Error, match=f"device {NAME}: it has driver mlx5_core.sf and no network interface on the host"
    ):
        find(Host(), functions.of_id(NAME, sysfs.root))


def test_one_that_is_not_there_is_refused(sysfs: FakeSysfs) -> None:
    with pytest.raises(Error, match=f"device {NAME}: there is no such auxiliary device") as refused:
        find(Host(), functions.of_id(NAME, sysfs.root))
    assert refused.value.kind == Kind.DEVICE


def test_one_that_was_removed_has_nothing_to_restore(sysfs: FakeSysfs) -> None:
    sysfs.function(PF, NAME, 88, interface=LINK.name)
    before = snapshot.take(find(Host(), functions.of_id(NAME, sysfs.root)))
    (sysfs.root / "bus/auxiliary/devices" / NAME).unlink()
    nowhere = ("/run/netns/none", Identity(0, 0, 0))
    restore(functions.of_id(NAME, sysfs.root), before, nowhere, timeout=0, rdma={})
