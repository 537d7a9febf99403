"""Messages for the ports of Linux bridges: their flags and VLANs (linux/if_bridge.h, family AF_BRIDGE)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wirespeed.kernel.netlink.codec import attribute, attributes, list_attributes, nested
from wirespeed.kernel.netlink.link import IFINFOMSG, IFLA_EXT_MASK

IFLA_PROTINFO, IFLA_AF_SPEC = 12, 26
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33  # IFLA_BRPORT_MODE is hairpin mode
_IFLA_BRIDGE_FLAGS, _IFLA_BRIDGE_VLAN_INFO = 0, 2
_BRIDGE_FLAGS_MASTER = 1
_BRIDGE_VLAN_INFO_PVID, _BRIDGE_VLAN_INFO_UNTAGGED = 2, 4
_RTEXT_FILTER_BRVLAN = 2
_AF_BRIDGE = 7  # socket.AF_BRIDGE is not in every build of Python

_VLAN_INFO = struct.Struct("HH")  # struct bridge_vlan_info: flags, VLAN id


def pack_port(index: int, *, hairpin: bool, isolated: bool) -> bytes:
    """Pack the flags of a port."""
    flags = attribute(_IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(_IFLA_BRPORT_ISOLATED, bytes([isolated]))
    return IFINFOMSG.pack(_AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_PROTINFO, flags)


def pack_vlan(index: int, vlan: int, *, native: bool = False) -> bytes:
    """Pack a VLAN of a port, to add or to delete: `native` is its PVID, which leaves the port untagged."""
    flags = _BRIDGE_VLAN_INFO_PVID | _BRIDGE_VLAN_INFO_UNTAGGED if native else 0
    info = attribute(_IFLA_BRIDGE_FLAGS, struct.pack("H", _BRIDGE_FLAGS_MASTER))
    info += attribute(_IFLA_BRIDGE_VLAN_INFO, _VLAN_INFO.pack(flags, vlan))
    return IFINFOMSG.pack(_AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_AF_SPEC, info)


def pack_vlan_request() -> bytes:
    """Pack a request for the VLANs of all ports."""
    mask = attribute(IFLA_EXT_MASK, struct.pack("I", _RTEXT_FILTER_BRVLAN))
    return IFINFOMSG.pack(_AF_BRIDGE, 0, 0, 0, 0) + mask


def unpack_vlans(payload: bytes) -> tuple[int, list[int]]:
    """Return the index of a port and its VLANs."""
    index = IFINFOMSG.unpack_from(payload)[2]
    listed = attributes(payload, IFINFOMSG.size).get(IFLA_AF_SPEC, b"")
    return index, list(_vlans(listed))


def _vlans(listed: bytes) -> Iterator[int]:
    for kind, value in list_attributes(listed):
        if kind == _IFLA_BRIDGE_VLAN_INFO:
            yield _VLAN_INFO.unpack(value)[1]
