"""The representor of a VF: the interface on the host that stands for it on the switch in its card."""

from __future__ import annotations

from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.host.rtnl import Link, Rtnl
from wirespeed.plugins.sriov.function import Vf

_DATAPATH = "ovs-system"  # the kernel's master of every port of Open vSwitch


def find(host: Rtnl, vf: Vf) -> Link:
    """The VF's representor, in no bridge or bond of the kernel. Raises CniError(DEVICE)."""
    link = host.link(name) if (name := vf.representor) else None
    if link is None:
        raise CniError(
            Code.DEVICE,
            f'{vf.where}: key "bridge": it has no representor on the host; expected its PF in switchdev mode '
            f"(devlink dev eswitch set pci/{vf.pf.address} mode switchdev)",
        )
    master = host.link(link.master) if link.master else None
    if master is not None and master.name != _DATAPATH:
        raise CniError(
            Code.DEVICE, f'{vf.where}: key "bridge": its representor {link.name} is a port of {master.name} already'
        )
    return link


def snapshot(link: Link) -> dict[str, Any]:
    """What `put_back` needs to make it what it is now; by its index, for it may get another name."""
    return {"index": link.index, "up": link.up, "mtu": link.mtu}


def put_back(host: Rtnl, before: dict[str, Any]) -> None:
    """Make it what it was, if it is still there. Raises NetlinkError."""
    link = host.link(before["index"])
    if link is not None and snapshot(link) != before:
        host.set_link(link.index, mtu=before["mtu"], up=before["up"])
