"""Link messages: an interface and the changes to it (linux/if_link.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.codec import (
    attribute,
    attributes,
    list_attributes,
    nested,
    number,
    string,
    text,
    u32,
)
from wirespeed.kernel.netlink.vf import IFLA_VFINFO_LIST, Vfs, VfSettings

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109
RTMGRP_LINK = 1
IFF_UP, IFF_RUNNING, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI, IFF_MULTICAST = 0x1, 0x40, 0x80, 0x100, 0x200, 0x1000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 5, 10, 13
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS = 16, 18, 20
IFLA_STATS64, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_XDP = 23, 27, 28, 29, 43
IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_PERM_ADDRESS, IFLA_PARENT_DEV_NAME = 52, 53, 54, 56
RTEXT_FILTER_VF, RTEXT_FILTER_SKIP_STATS = 1, 8
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_VRF_TABLE = 1, 2, 1

IFLA_XDP_FD, IFLA_XDP_FLAGS = 1, 3
# How an XDP program is attached: (IFLA_XDP_*_PROG_ID, present if one is; XDP_FLAGS_*_MODE).
XDP_MODES = {"native": (5, 4), "generic": (6, 2), "offloaded": (7, 8)}

IF_OPER_UP = 6  # linux/if.h
ARPHRD_INFINIBAND = 32  # linux/if_arp.h

IFINFOMSG = struct.Struct("BxHiII")  # struct ifinfomsg: family, type, index, flags, change


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network interface.

    `mtu` is in bytes. `permanent_mac` is the hardware's MAC, as its driver reports it. `master` is the index of
    the bridge or bond that it is a port of (0: none). `kind` is that of a virtual interface ("veth", "bridge"
    ...), `data` are its kind's attributes. `lower` is the index of the interface below it, or of a veth's peer,
    which may be in another namespace. `operstate` is an IF_OPER_* number. `xdp` are the modes (XDP_MODES) in
    which an XDP program is attached. `parent` is the bus address of its device ("" for a virtual interface). An
    `infiniband` interface has a 20-byte address as `mac`, whose last 8 bytes are the GUID of its port. `vfs`
    are the VFs that its driver reports, by number.
    """

    index: int
    name: str
    mac: str
    mtu: int
    flags: int
    permanent_mac: str = ""
    txqlen: int = 0
    alias: str = ""
    master: int = 0
    xdp: tuple[str, ...] = ()
    parent: str = ""
    infiniband: bool = False
    kind: str = ""
    data: Mapping[int, bytes] = field(default_factory=dict)
    lower: int = 0
    operstate: int = 0
    altnames: tuple[str, ...] = ()
    vfs: Mapping[int, VfSettings] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Whether it is up and has a carrier."""
        return bool(self.flags & IFF_RUNNING)

    @property
    def promisc(self) -> bool:
        return bool(self.flags & IFF_PROMISC)

    @property
    def allmulti(self) -> bool:
        return bool(self.flags & IFF_ALLMULTI)

    @property
    def arp(self) -> bool:
        return not self.flags & IFF_NOARP

    @property
    def multicast(self) -> bool:
        return bool(self.flags & IFF_MULTICAST)

    def vf(self, number: int) -> VfSettings:
        """Return the driver's settings of one VF. Raises Error(TRY_AGAIN) if they are not reported now.

        The kernel omits a VF if the driver fails to return its settings, as some drivers do while they reset the
        VF (rtnl_fill_vfinfo).
        """
        if (found := self.vfs.get(number)) is None:
            what = f"its driver does not report the settings of VF {number} now (it may be resetting that VF)"
            raise Error(Kind.TRY_AGAIN, what, where=f"PF {self.name}")
        return found


def pack_link(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    """Pack a link message: the interface with this index, and of its flags (IFF_*) those in `change`."""
    return IFINFOMSG.pack(0, 0, index, flags, change)


def pack_name(name: str) -> bytes:
    """Pack the name or alternative name of the interface that is requested."""
    return text(IFLA_IFNAME if len(name) < 16 else IFLA_ALT_IFNAME, name)


def pack_xdp_detachment(mode: str) -> bytes:
    """Pack the detachment of the XDP program that is attached in that mode (XDP_MODES).

    The kernel detaches no program of another mode. Without a mode in the message, it assumes the native one if the
    driver supports that: a generic program would stay, and the kernel would report success.
    """
    flags = u32(IFLA_XDP_FLAGS, XDP_MODES[mode][1])
    return nested(IFLA_XDP, attribute(IFLA_XDP_FD, struct.pack("i", -1)) + flags)


def unpack_link(payload: bytes) -> Link:
    _, kind, index, flags, _ = IFINFOMSG.unpack_from(payload)
    seen = attributes(payload, IFINFOMSG.size)
    properties = list_attributes(seen.get(IFLA_PROP_LIST, b""))
    attached = attributes(seen.get(IFLA_XDP, b""))
    info = attributes(seen.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=string(seen.get(IFLA_IFNAME)),
        mac=seen.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=number(seen.get(IFLA_MTU)),
        flags=flags,
        permanent_mac=seen.get(IFLA_PERM_ADDRESS, b"").hex(":"),
        txqlen=number(seen.get(IFLA_TXQLEN)),
        alias=string(seen.get(IFLA_IFALIAS)),
        master=number(seen.get(IFLA_MASTER)),
        xdp=tuple(mode for mode, (program, _) in XDP_MODES.items() if program in attached),
        parent=string(seen.get(IFLA_PARENT_DEV_NAME)),
        infiniband=kind == ARPHRD_INFINIBAND,
        kind=string(info.get(IFLA_INFO_KIND)),
        data=attributes(info.get(IFLA_INFO_DATA, b"")),
        lower=number(seen.get(IFLA_LINK)),
        operstate=number(seen.get(IFLA_OPERSTATE)),
        altnames=tuple(string(value) for kind, value in properties if kind == IFLA_ALT_IFNAME),
        vfs=Vfs(seen.get(IFLA_VFINFO_LIST, b"")),
    )


def unpack_vrf_table(payload: bytes) -> int:
    """Return the routing table of a VRF, 0 for any other interface."""
    info = attributes(attributes(payload, IFINFOMSG.size).get(IFLA_LINKINFO, b""))
    if string(info.get(IFLA_INFO_KIND)) != "vrf":
        return 0
    return number(attributes(info[IFLA_INFO_DATA])[IFLA_VRF_TABLE])
