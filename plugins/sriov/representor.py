"""The representor of a VF: the host interface that represents it on the NIC's embedded switch."""

from __future__ import annotations

import msgspec

from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl

_DATAPATH = "ovs-system"  # the master of every Open vSwitch port in the kernel


class RepresentorState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a representor that ADD changes. It is identified by its index, because its name may change."""

    index: int
    up: bool
    mtu: int


def find(host: Rtnl, vf: Vf) -> Link:
    """Return the VF's representor. Raises Error(DEVICE) without one, or if a kernel bridge or bond uses it."""
    link = host.link(name) if (name := vf.representor) else None
    if link is None:
        what = "it has no representor on the host"
        expected = f"its PF in switchdev mode (devlink dev eswitch set pci/{vf.pf.address} mode switchdev)"
        raise Error(Kind.DEVICE, what, where=vf.where, key="bridge", expected=expected)
    master = host.link(link.master) if link.master else None
    if master is not None and master.name != _DATAPATH:
        what = f"its representor {link.name} is already a port of {master.name}"
        raise Error(Kind.DEVICE, what, where=vf.where, key="bridge")
    return link


def state(link: Link) -> RepresentorState:
    """Return the state for `put_back`."""
    return RepresentorState(index=link.index, up=link.up, mtu=link.mtu)


def put_back(host: Rtnl, before: RepresentorState) -> None:
    """Restore the state, if the representor still exists. Raises NetlinkError."""
    link = host.link(before.index)
    if link is not None and state(link) != before:
        host.set_link(link.index, mtu=before.mtu, up=before.up)
