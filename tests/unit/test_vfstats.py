"""VF counters of a PF's driver, from netlink messages as written by the kernel."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.fakesysfs import FakeSysfs
from wirespeed.devices import vfstats
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.netlink.codec import attribute
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import IFLA_VF_INFO, IFLA_VF_MAC, IFLA_VF_STATS, IFLA_VFINFO_LIST

PF = "0000:18:00.0"


class Host(Rtnl):
    """A host whose only PF reports these VFs; each has received ten times its number of packets."""

    def __init__(self, *told: int) -> None:
        self.told = told

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        return Link(index=7, name="eth4", mac="02:00:00:00:00:01", mtu=1500, flags=1)

    def _link_attribute(self, index: int, wanted: int, packed: bytes = b"") -> bytes:
        assert (index, wanted) == (7, IFLA_VFINFO_LIST)
        return b"".join(attribute(IFLA_VF_INFO, self.info(number)) for number in self.told)

    def info(self, number: int) -> bytes:
        counters = attribute(0, struct.pack("Q", 10 * number)) + attribute(6, b"")
        mac = struct.pack("I32s", number, b"\2")
        return attribute(IFLA_VF_MAC, mac) + attribute(IFLA_VF_STATS, counters)


def test_counters_are_those_of_the_vfs_that_are_told_of(tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path)
    sysfs.pf(PF, "eth4", vfs=4)
    pf = PciDevice(PF, sysfs.root)
    expected = {number: {"rx_packets": 10 * number} for number in (0, 1, 3)}
    assert vfstats.read(pf, Host(0, 1, 3)) == expected
    assert vfstats.read(pf, Host(0)) == {}  # it has no counters
    assert vfstats.read(pf, Host()) == {}
