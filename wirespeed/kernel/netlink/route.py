"""Route messages: routes with their next hops, and nexthop objects (linux/rtnetlink.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from wirespeed.kernel.netlink.codec import attribute, attributes, number, u32

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_GETNEXTHOP = 24, 25, 26, 106
RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x10, 0x40, 0x100, 0x400
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
RTA_FLOW, RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP, RTA_NH_ID = 11, 15, 18, 21, 22, 30
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255
RTN_UNICAST, RTPROT_UNSPEC, RTPROT_BOOT, RTPROT_STATIC = 1, 0, 3, 4
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
_NHA_ID, _NHA_GROUP, _NHA_OIF, _NHA_GATEWAY = 1, 2, 5, 6  # linux/nexthop.h
_RTNH_F_ONLINK = 4
# What makes up a route: without its state (as RTA_CACHEINFO), its table, and a reference to a nexthop object.
_COPIED = (
    *(RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_VIA, RTA_PREFSRC, RTA_PRIORITY, RTA_FLOW, RTA_METRICS),
    *(RTA_ENCAP_TYPE, RTA_ENCAP),
)

_RTMSG = struct.Struct("BBBBBBBBI")  # struct rtmsg, and struct fib_rule_hdr
_NHMSG = struct.Struct("BBBBI")  # struct nhmsg
_NEXTHOP = struct.Struct("HBBi")  # struct rtnexthop
_NEXTHOP_GROUP = struct.Struct("IBBH")  # struct nexthop_grp

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Hop:
    """A next hop: the index of its interface, and its gateway, "" without one."""

    index: int
    gateway: str


def pack_route_header(network: Network, *, table: int, scope: int, protocol: int = RTPROT_STATIC) -> bytes:
    """Pack a unicast route to a network, without its next hop."""
    family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
    packed = _RTMSG.pack(family, network.prefixlen, 0, 0, _short(table), protocol, scope, RTN_UNICAST, 0)
    if network.prefixlen:
        packed += attribute(RTA_DST, network.network_address.packed)
    return packed + u32(RTA_TABLE, table)


def pack_request(family: int = socket.AF_UNSPEC, *, index: int = 0) -> bytes:
    """Pack a request for routes or policy rules, or only for the routes over the interface with this index."""
    return _RTMSG.pack(family, *[0] * 8) + (u32(RTA_OIF, index) if index else b"")


def is_unicast(route: bytes) -> bool:
    return bool(_RTMSG.unpack_from(route)[7] == RTN_UNICAST)


def is_default_route(route: bytes) -> bool:
    """Whether it is a unicast route to 0.0.0.0/0 or ::/0 in the main table."""
    _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(route)
    return bool(prefix == 0 and table == RT_TABLE_MAIN and kind == RTN_UNICAST)


def route_attributes(route: bytes) -> dict[int, bytes]:
    """Return the attributes (RTA_*) of a route by type."""
    return attributes(route, _RTMSG.size)


def unpack_route(route: bytes) -> tuple[Network, int]:
    """Return the destination of a route and the number of its table."""
    family, prefix, _, _, table, *_ = _RTMSG.unpack_from(route)
    seen = route_attributes(route)
    destination = seen.get(RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    return ipaddress.ip_network((destination, prefix)), number(seen.get(RTA_TABLE)) or table


def unpack_hops(seen: Mapping[int, bytes]) -> Iterator[Hop]:
    """Yield the next hops in the attributes of a route; those of a nexthop object may be missing."""
    if RTA_OIF in seen:
        yield Hop(number(seen[RTA_OIF]), _gateway(seen))
    listed = seen.get(RTA_MULTIPATH, b"")
    offset = 0
    while offset + _NEXTHOP.size <= len(listed):
        length, _, _, index = _NEXTHOP.unpack_from(listed, offset)
        yield Hop(index, _gateway(attributes(listed[offset + _NEXTHOP.size : offset + length])))
        offset += (length + 3) & ~3


def _gateway(hop: Mapping[int, bytes]) -> str:
    """Return RTA_GATEWAY, or RTA_VIA: a gateway of the other family, after two bytes for that family."""
    return _address(hop.get(RTA_GATEWAY, b"") or hop.get(RTA_VIA, b"")[2:])


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if packed else ""


def without_attributes(route: bytes, kinds: Collection[int]) -> bytes:
    """Return a route's message without the attributes of these types."""
    kept = (attribute(kind, value) for kind, value in route_attributes(route).items() if kind not in kinds)
    return route[: _RTMSG.size] + b"".join(kept)


def pack_copy(route: bytes, table: int, *, keep_onlink: bool = False) -> bytes:
    """Pack the same route for another table; also one that the kernel made, as that to an address's network.

    With `keep_onlink`, the gateway of an "onlink" route still need not be in a network of the interface.
    """
    family, prefix, _, tos, _, protocol, scope, kind, flags = _RTMSG.unpack_from(route)
    flags = flags & _RTNH_F_ONLINK if keep_onlink else 0
    header = _RTMSG.pack(family, prefix, 0, tos, _short(table), protocol, scope, kind, flags)
    kept = (attribute(each, value) for each, value in route_attributes(route).items() if each in _COPIED)
    return header + b"".join(kept) + u32(RTA_TABLE, table)


def _short(table: int) -> int:
    """Return rtm_table, which is one byte: larger numbers are in RTA_TABLE alone."""
    return table if table < 256 else 0


def scope_of(route: bytes) -> int:
    """Return the scope (RT_SCOPE_*) of a route; those of IPv6 all have the same."""
    return int(_RTMSG.unpack_from(route)[6])


def pack_nexthop_request(identity: int) -> bytes:
    """Pack a request for a nexthop object (`ip nexthop`)."""
    return _NHMSG.pack(0, 0, 0, 0, 0) + u32(_NHA_ID, identity)


def unpack_nexthop(payload: bytes) -> tuple[list[int], list[Hop]]:
    """Return the ids of the members of a nexthop object that is a group, and the next hop of one that is not."""
    seen = attributes(payload, _NHMSG.size)
    members = [member for member, *_ in _NEXTHOP_GROUP.iter_unpack(seen.get(_NHA_GROUP, b""))]
    own = [Hop(number(seen[_NHA_OIF]), _address(seen.get(_NHA_GATEWAY, b"")))] if _NHA_OIF in seen else []
    return members, own
