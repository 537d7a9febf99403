"""Default routes of this network namespace: which there are, taking them away, and when they change."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("IHHII")  # struct nlmsghdr
_RTMSG = struct.Struct("BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("HH")  # struct rtattr
_IFINFOMSG = struct.Struct("BxHiII")  # struct ifinfomsg
_IFADDRMSG = struct.Struct("BBBBI")  # struct ifaddrmsg
_NEXTHOP = struct.Struct("HBBi")  # struct rtnexthop
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_DELADDR = 16, 17, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_DO = 0x005  # NLM_F_REQUEST | NLM_F_ACK
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 4, 5, 9
_RTN_UNICAST = 1
_RT_TABLE_MAIN = 254
_GROUPS = 0x1 | 0x10 | 0x40 | 0x400  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_IFLA_MASTER, _IFLA_PARENT_DEV_NAME = 10, 56
_IFF_UP = 1


@dataclass(frozen=True)
class DefaultRoute:
    """A unicast route to everywhere, of the main table.

    `indexes` are the interfaces of its next hops, `gateway` is that of a route with one next hop, "" for none;
    `message` is how the kernel tells it.
    """

    indexes: frozenset[int]
    gateway: str
    message: bytes


def default_routes(family: int) -> list[DefaultRoute]:
    """The default routes of AF_INET or AF_INET6, of the namespace that the calling thread is in. Raises OSError."""
    return [
        DefaultRoute(frozenset(_leaves_by(route)), _gateway(route), route)
        for route in _dump(family)
        if _is_default(route)
    ]


def remove_route(route: DefaultRoute) -> None:
    """Take a route away that `default_routes` told of, in the same namespace. Raises OSError."""
    with _open() as asking:
        # As it was told: the kernel takes its own message and finds the route that has all of it.
        size = _HEADER.size + len(route.message)
        asking.send(_HEADER.pack(size, _RTM_DELROUTE, _DO, 1, 0) + route.message)
        for kind, payload in _messages(asking.recv(1 << 16)):
            if kind == _NLMSG_ERROR and (number := -struct.unpack_from("i", payload)[0]):
                raise OSError(number, os.strerror(number))


def default_route_interfaces() -> set[str]:
    """Names of the interfaces that a default route of the main table leaves by, IPv4 or IPv6, all next hops.

    Of the network namespace that the calling thread is in. Raises OSError.
    """
    indexes: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        indexes.update(*(_leaves_by(route) for route in _dump(family) if _is_default(route)))
    names = set()
    for index in indexes:
        with contextlib.suppress(OSError):  # it went meanwhile, and its routes with it
            names.add(socket.if_indextoname(index))
    return names


class DefaultRouteEvents:
    """Notices that other interfaces may carry a default route, in this thread's network namespace.

    That is when such a route came or went, or an interface became part of a bond or bridge, or left it.
    Raises OSError.
    """

    def __init__(self) -> None:
        self._socket = _open()
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        self._carriers = {  # that have or had such a route
            index
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in default_routes(family)
            for index in route.indexes
        }
        self._masters: dict[int, int] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take all notices; whether one of them counts, or may have."""
        changed = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # more notices than fit; what they were is lost
                continue
            for kind, payload in _messages(data):
                changed = self._counts(kind, payload) or changed

    def close(self) -> None:
        self._socket.close()

    def _counts(self, kind: int, payload: bytes) -> bool:
        if kind in {_RTM_NEWROUTE, _RTM_DELROUTE}:
            if not _is_default(payload):
                return False
            self._carriers.update(_leaves_by(payload))
            return True
        # The kernel takes IPv4 routes away in silence, with the address or the link that they need.
        if kind == _RTM_DELADDR:
            return _IFADDRMSG.unpack_from(payload)[4] in self._carriers
        if kind in {_RTM_NEWLINK, _RTM_DELLINK}:
            family, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
            is_down = kind == _RTM_DELLINK or not flags & _IFF_UP
            moved = family == socket.AF_UNSPEC and self._has_moved(
                index, dict(_attributes(payload, _IFINFOMSG.size))
            )
            return moved or (is_down and index in self._carriers)
        return False

    def _has_moved(self, index: int, attributes: dict[int, bytes]) -> bool:
        """Whether the interface of a device is below another one than was told last."""
        if _IFLA_PARENT_DEV_NAME not in attributes:  # a virtual one; each pod has some
            return False
        master = int.from_bytes(attributes.get(_IFLA_MASTER, b""), sys.byteorder)
        before, self._masters[index] = self._masters.get(index, 0), master
        return before != master


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _dump(family: int) -> Iterator[bytes]:
    """All routes of a family, each from its rtmsg on."""
    with _open() as asking:
        body = _RTMSG.pack(family, *[0] * 8)
        asking.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _DUMP, 1, 0) + body)
        while True:
            for kind, payload in _messages(asking.recv(1 << 18)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("i", payload)[0]
                    if number == errno.EOPNOTSUPP:  # a kernel without IPv6
                        return
                    raise OSError(number, os.strerror(number))
                yield payload


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _is_default(route: bytes) -> bool:
    """Whether it is a unicast route to 0.0.0.0/0 or ::/0 in the main table."""
    _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(route)
    return bool(prefix == 0 and table == _RT_TABLE_MAIN and kind == _RTN_UNICAST)


def _attributes(message: bytes, at: int = _RTMSG.size) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        yield kind, message[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _gateway(route: bytes) -> str:
    for kind, value in _attributes(route):
        if kind == _RTA_GATEWAY:
            return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)
    return ""


def _leaves_by(route: bytes) -> Iterator[int]:
    """Indexes of the interfaces of its next hops."""
    for kind, value in _attributes(route):
        if kind == _RTA_OIF:
            yield struct.unpack("i", value)[0]
        elif kind == _RTA_MULTIPATH:
            hop = 0
            while hop + _NEXTHOP.size <= len(value):
                hop_length, _, _, index = _NEXTHOP.unpack_from(value, hop)
                yield index
                hop += (hop_length + 3) & ~3
