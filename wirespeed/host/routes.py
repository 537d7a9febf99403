"""Routes of a network namespace: those over an interface, the default routes, and notification of changes."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from wirespeed.host.netlink import attributes, messages
from wirespeed.host.rtnl import Link, NetlinkError, Rtnl

MAIN_TABLE = 254

_RTMSG = struct.Struct("BBBBBBBBI")  # struct rtmsg, and struct fib_rule_hdr
_IFINFOMSG = struct.Struct("BxHiII")  # struct ifinfomsg
_IFADDRMSG = struct.Struct("BBBBI")  # struct ifaddrmsg
_NHMSG = struct.Struct("BBBBI")  # struct nhmsg
_NEXTHOP = struct.Struct("HBBi")  # struct rtnexthop
_NEXTHOP_GROUP = struct.Struct("IBBH")  # struct nexthop_grp
_ATTRIBUTE = struct.Struct("HH")  # struct rtattr
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_DELADDR = 16, 17, 18, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE, _RTM_GETRULE, _RTM_GETNEXTHOP = 24, 25, 26, 34, 106
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_ENCAP, _RTA_NH_ID = (
    1, 4, 5, 9, 15, 18, 22, 30,
)  # fmt: skip
_NHA_ID, _NHA_GROUP, _NHA_OIF, _NHA_GATEWAY = 1, 2, 5, 6
_FRA_SRC, _FRA_IIFNAME, _FRA_TABLE, _FRA_OIFNAME = 2, 3, 15, 17
_FR_ACT_TO_TBL, _FIB_RULE_INVERT = 1, 2
_RTN_UNICAST = 1
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_GROUPS = 0x1 | 0x10 | 0x40 | 0x400  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_PARENT_DEV_NAME = 10, 18, 56
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VRF_TABLE = 1, 2, 1
_IFF_UP = 1

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True)
class Hop:
    """A next hop: the index of its interface, and its gateway, "" without one."""

    index: int
    gateway: str


class Route(NamedTuple):
    """A unicast route over one interface; `gateway` is "" without one."""

    destination: Network
    gateway: str
    table: int


@dataclass(frozen=True)
class DefaultRoute:
    """A unicast default route of the main table.

    `indexes` are the interfaces of its next hops. `gateway` is that of a route with one next hop, else "".
    `message` is the body of the RTM_DELROUTE request that removes it. The kernel merges IPv6 routes to the same
    destination into one multipath route; here, each next hop of it is a route, which can be removed by itself.
    """

    indexes: frozenset[int]
    gateway: str
    message: bytes


def by_interface(asking: Rtnl, index: int) -> set[Route]:
    """Return the unicast routes with a next hop over an interface, of both families and all tables."""
    found: set[Route] = set()
    for family in _FAMILIES:
        for message in _dump(asking, family, _u32(_RTA_OIF, index)):
            _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(message)
            if kind != _RTN_UNICAST:
                continue
            seen = attributes(message[_RTMSG.size :])
            destination = seen.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
            network = ipaddress.ip_network((destination, prefix))
            number = _number(seen[_RTA_TABLE]) if _RTA_TABLE in seen else table
            found.update(Route(network, hop.gateway, number) for hop in _hops(seen, asking) if hop.index == index)
    return found


def tables(asking: Rtnl, link: Link, sources: Collection[Interface]) -> set[int]:
    """Return the routing tables that packets of an interface with these addresses may be routed by.

    These are the table of its VRF and the tables of the policy rules (`ip rule`). Rules for other interfaces or
    other source addresses are skipped, and so are inverted rules.
    """
    found = {_vrf_table(asking, link.master)} if link.master else set()
    for rule in asking.dump(_RTM_GETRULE, _RTMSG.pack(*[0] * 9)):
        _, _, length, _, table, _, _, action, flags = _RTMSG.unpack_from(rule)
        seen = attributes(rule[_RTMSG.size :])
        if action != _FR_ACT_TO_TBL or flags & _FIB_RULE_INVERT:
            continue
        names = {seen[key].rstrip(b"\0").decode() for key in (_FRA_IIFNAME, _FRA_OIFNAME) if key in seen}
        if names and link.name not in names:
            continue
        if _FRA_SRC in seen:
            network = ipaddress.ip_network((seen[_FRA_SRC], length), strict=False)
            if not any(source.ip in network for source in sources):
                continue
        found.add(_number(seen[_FRA_TABLE]) if _FRA_TABLE in seen else table)
    return found - {0}


def default_routes(family: int) -> list[DefaultRoute]:
    """Return the default routes of AF_INET or AF_INET6 in the calling thread's namespace. Raises OSError."""
    with Rtnl() as asking:
        return [
            route
            for message in _dump(asking, family)
            if _is_default(message)
            for route in _default_routes(message, asking)
        ]


def remove_route(route: DefaultRoute) -> None:
    """Remove a route that `default_routes` returned, in the same namespace. Raises OSError."""
    with Rtnl() as asking:
        asking.do(_RTM_DELROUTE, route.message)


def default_route_interfaces() -> set[str]:
    """Return the names of the interfaces of all default routes in the main table, IPv4 and IPv6, all next hops.

    Reads the calling thread's network namespace. Raises OSError.
    """
    names = set()
    for index in _default_route_indexes():
        with contextlib.suppress(OSError):  # it was removed meanwhile, and its routes with it
            names.add(socket.if_indextoname(index))
    return names


class DefaultRouteEvents:
    """Notifies that the interfaces with a default route may have changed, in this thread's network namespace.

    That is the case when such a route is added or removed, or an interface joins or leaves a bond or bridge.
    Raises OSError.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        self._carriers = _default_route_indexes()  # of interfaces that have or had a default route
        self._masters: dict[int, int] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Process all notifications; return whether the interfaces with a default route may have changed."""
        changed = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # the socket buffer overflowed: notifications are lost
                continue
            for kind, payload in messages(data):
                changed = self._counts(kind, payload) or changed

    def close(self) -> None:
        self._socket.close()

    def _counts(self, kind: int, payload: bytes) -> bool:
        if kind in {_RTM_NEWROUTE, _RTM_DELROUTE}:
            if not _is_default(payload):
                return False
            self._carriers.update(hop.index for hop in _own_hops(attributes(payload[_RTMSG.size :])))
            return True
        # The kernel does not notify of IPv4 routes that go with the address or link that they need.
        if kind == _RTM_DELADDR:
            return _IFADDRMSG.unpack_from(payload)[4] in self._carriers
        if kind in {_RTM_NEWLINK, _RTM_DELLINK}:
            family, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
            is_down = kind == _RTM_DELLINK or not flags & _IFF_UP
            moved = family == socket.AF_UNSPEC and self._has_moved(index, attributes(payload[_IFINFOMSG.size :]))
            return moved or (is_down and index in self._carriers)
        return False

    def _has_moved(self, index: int, seen: Mapping[int, bytes]) -> bool:
        """Whether the interface of a device has another master than at the last notification."""
        if _IFLA_PARENT_DEV_NAME not in seen:  # a virtual interface: every pod has some
            return False
        master = int.from_bytes(seen.get(_IFLA_MASTER, b""), sys.byteorder)
        before, self._masters[index] = self._masters.get(index, 0), master
        return before != master


def _dump(asking: Rtnl, family: int, filtered: bytes = b"") -> list[bytes]:
    """Return all routes of a family, each starting at its struct rtmsg."""
    try:
        return asking.dump(_RTM_GETROUTE, _RTMSG.pack(family, *[0] * 8) + filtered)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:  # a kernel without IPv6
            return []
        raise


def _default_route_indexes() -> set[int]:
    return {index for family in _FAMILIES for route in default_routes(family) for index in route.indexes}


def _is_default(route: bytes) -> bool:
    """Whether it is a unicast route to 0.0.0.0/0 or ::/0 in the main table."""
    _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(route)
    return bool(prefix == 0 and table == MAIN_TABLE and kind == _RTN_UNICAST)


def _default_routes(message: bytes, asking: Rtnl) -> Iterator[DefaultRoute]:
    """Yield the route of a kernel message; of an IPv6 multipath route, one route per next hop."""
    seen = attributes(message[_RTMSG.size :])
    hops = _hops(seen, asking)
    indexes = frozenset(hop.index for hop in hops)
    # The kernel lists the next hops of a nexthop object beside its id; RTM_DELROUTE accepts the id only.
    if _RTA_NH_ID in seen:
        told = (_RTA_OIF, _RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH, _RTA_ENCAP)
        yield DefaultRoute(indexes, hops[0].gateway if len(hops) == 1 else "", _without(message, told))
    elif _RTA_MULTIPATH in seen and message[0] == socket.AF_INET6:
        for hop in hops:
            only = _without(message, (_RTA_MULTIPATH,)) + _u32(_RTA_OIF, hop.index)
            if hop.gateway:
                only += _packed(_RTA_GATEWAY, socket.inet_pton(socket.AF_INET6, hop.gateway))
            yield DefaultRoute(frozenset({hop.index}), hop.gateway, only)
    else:
        yield DefaultRoute(indexes, hops[0].gateway if len(hops) == 1 else "", message)


def _hops(route: Mapping[int, bytes], asking: Rtnl) -> list[Hop]:
    """Return the next hops of a route, given its attributes.

    The kernel omits those of a nexthop object (`ip nexthop`) if the sysctl nexthop_compat_mode is off: then the
    object is looked up.
    """
    found = list(_own_hops(route))
    if found or _RTA_NH_ID not in route:
        return found
    return list(_hops_of_object(_number(route[_RTA_NH_ID]), asking))


def _own_hops(route: Mapping[int, bytes]) -> Iterator[Hop]:
    """Yield the next hops in a route's own attributes."""
    if _RTA_OIF in route:
        yield Hop(_number(route[_RTA_OIF]), _gateway(route))
    listed = route.get(_RTA_MULTIPATH, b"")
    at = 0
    while at + _NEXTHOP.size <= len(listed):
        length, _, _, index = _NEXTHOP.unpack_from(listed, at)
        yield Hop(index, _gateway(attributes(listed[at + _NEXTHOP.size : at + length])))
        at += (length + 3) & ~3


def _hops_of_object(number: int, asking: Rtnl) -> Iterator[Hop]:
    try:
        answer = asking.get(_RTM_GETNEXTHOP, _NHMSG.pack(0, 0, 0, 0, 0) + _u32(_NHA_ID, number))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # it was removed meanwhile, and its routes with it
            raise
        return
    seen = attributes(answer[_NHMSG.size :])
    for member, *_ in _NEXTHOP_GROUP.iter_unpack(seen.get(_NHA_GROUP, b"")):
        yield from _hops_of_object(member, asking)
    if _NHA_OIF in seen:
        yield Hop(_number(seen[_NHA_OIF]), _address(seen.get(_NHA_GATEWAY, b"")))


def _gateway(hop: Mapping[int, bytes]) -> str:
    """Return RTA_GATEWAY, or RTA_VIA: a gateway of the other family, after two bytes for that family."""
    return _address(hop.get(_RTA_GATEWAY, b"") or hop.get(_RTA_VIA, b"")[2:])


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if packed else ""


def _vrf_table(asking: Rtnl, index: int) -> int:
    """Return the table of a VRF, 0 for any other interface."""
    info = attributes(asking.get(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, index, 0, 0))[_IFINFOMSG.size :])
    kind = attributes(info.get(_IFLA_LINKINFO, b""))
    if kind.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") != b"vrf":
        return 0
    return _number(attributes(kind[_IFLA_INFO_DATA])[_IFLA_VRF_TABLE])


def _without(message: bytes, kinds: Collection[int]) -> bytes:
    """Return a route's message without the attributes of these types."""
    kept = (_packed(kind, value) for kind, value in attributes(message[_RTMSG.size :]).items() if kind not in kinds)
    return message[: _RTMSG.size] + b"".join(kept)


def _packed(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _packed(kind, value.to_bytes(4, sys.byteorder))


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)
