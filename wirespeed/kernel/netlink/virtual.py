"""Messages that create virtual interfaces, by kind (linux/if_link.h, linux/veth.h)."""

from __future__ import annotations

import struct

from wirespeed.kernel.netlink.codec import attribute, mac_bytes, nested, text, u32
from wirespeed.kernel.netlink.link import (
    IFF_UP,
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_TXQLEN,
)

VETH, BRIDGE, MACVLAN, IPVLAN, VLAN, VRF = "veth", "bridge", "macvlan", "ipvlan", "vlan", "vrf"

_VETH_INFO_PEER = 1
_IFLA_BR_VLAN_FILTERING = 7
IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 1, 2
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IFLA_VLAN_ID = 1
_IFLA_VRF_TABLE = 1


def pack_virtual(
    name: str,
    kind: str,
    *,
    data: bytes = b"",
    lower: int = 0,
    mtu: int = 0,
    mac: str = "",
    netns_fd: int | None = None,
    up: bool = False,
) -> bytes:
    """Pack a new interface of a kind. `data` are the kind's own attributes.

    `lower` is the index of the interface below it (0: none). `mtu` is in bytes; 0, and `mac` "", are the kernel's
    defaults. The interface is created in the namespace `netns_fd`, else in that of the socket.
    """
    flags = IFF_UP if up else 0
    packed = IFINFOMSG.pack(0, 0, 0, flags, flags) + text(IFLA_IFNAME, name)
    if lower:
        packed += u32(IFLA_LINK, lower)
    if mtu:
        packed += u32(IFLA_MTU, mtu)
    if mac:
        packed += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if netns_fd is not None:
        packed += u32(IFLA_NET_NS_FD, netns_fd)
    info = text(IFLA_INFO_KIND, kind) + (nested(IFLA_INFO_DATA, data) if data else b"")
    return packed + nested(IFLA_LINKINFO, info)


def veth_data(peer: str, *, mtu: int = 0, netns_fd: int | None = None, txqlen: int | None = None) -> bytes:
    """Return the attributes of a veth: its peer, with that name, in the namespace `netns_fd`.

    The peer cannot be created up: it has no peer itself at that instant (veth_open returns ENOTCONN).
    """
    packed = IFINFOMSG.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, peer)
    if txqlen is not None:
        packed += u32(IFLA_TXQLEN, txqlen)
    if mtu:
        packed += u32(IFLA_MTU, mtu)
    if netns_fd is not None:
        packed += u32(IFLA_NET_NS_FD, netns_fd)
    return nested(_VETH_INFO_PEER, packed)


def bridge_data(*, vlan_filtering: bool) -> bytes:
    """Return the attributes of a bridge; without filtering, none, as the kernel's default is off."""
    return attribute(_IFLA_BR_VLAN_FILTERING, b"\1") if vlan_filtering else b""


def macvlan_data(mode: str, *, broadcast_queue: int = 0) -> bytes:
    """Return the attributes of a macvlan (MACVLAN_MODES); `broadcast_queue` is in packets, 0 for the default."""
    packed = u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return packed + (u32(IFLA_MACVLAN_BC_QUEUE_LEN, broadcast_queue) if broadcast_queue else b"")


def ipvlan_data(mode: str) -> bytes:
    """Return the attributes of an ipvlan (IPVLAN_MODES), which apply to all ipvlans of its master.

    They are neither private nor vepa.
    """
    flags = attribute(_IFLA_IPVLAN_FLAGS, struct.pack("H", 0))
    return attribute(IFLA_IPVLAN_MODE, struct.pack("H", IPVLAN_MODES[mode])) + flags


def vlan_data(identifier: int) -> bytes:
    """Return the attributes of an 802.1Q VLAN."""
    return attribute(IFLA_VLAN_ID, struct.pack("H", identifier))


def vrf_data(table: int) -> bytes:
    """Return the attributes of a VRF."""
    return u32(_IFLA_VRF_TABLE, table)
