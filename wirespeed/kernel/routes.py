"""Routes of a network namespace: those over an interface, the default routes, and notification of changes."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from wirespeed.kernel.netlink import route
from wirespeed.kernel.netlink.address import IFADDRMSG, RTM_DELADDR, Interface
from wirespeed.kernel.netlink.codec import attribute, attributes, messages, number, u32
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import (
    IFF_UP,
    IFINFOMSG,
    IFLA_MASTER,
    IFLA_PARENT_DEV_NAME,
    RTM_DELLINK,
    RTM_NEWLINK,
    RTMGRP_LINK,
    Link,
)
from wirespeed.kernel.netlink.route import Hop, Network
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.rule import RTM_GETRULE, pack_rules_request, unpack_table_rule
from wirespeed.kernel.netlink.socket import NETLINK_ROUTE, NetlinkSocket

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_GROUPS = RTMGRP_LINK | route.RTMGRP_IPV4_IFADDR | route.RTMGRP_IPV4_ROUTE | route.RTMGRP_IPV6_ROUTE


class Route(NamedTuple):
    """A unicast route over one interface; `gateway` is "" without one."""

    destination: Network
    gateway: str
    table: int


class DefaultRoute(NamedTuple):
    """A unicast default route of the main table.

    `indexes` are the interfaces of its next hops. `gateway` is that of a route with one next hop, else "".
    `message` is the body of the RTM_DELROUTE request that removes it. The kernel merges IPv6 routes to the same
    destination into one multipath route; here, each of its next hops is a separate DefaultRoute, which can be
    removed alone.
    """

    indexes: frozenset[int]
    gateway: str
    message: bytes


def by_interface(rtnl: Rtnl, index: int) -> set[Route]:
    """Return the unicast routes with a next hop over an interface, of both families and all tables."""
    found: set[Route] = set()
    for family in _FAMILIES:
        for message in filter(route.is_unicast, _dump(rtnl, family, index=index)):
            destination, table = route.unpack_route(message)
            hops = _hops(rtnl, route.route_attributes(message))
            found.update(Route(destination, hop.gateway, table) for hop in hops if hop.index == index)
    return found


def of_main_table(rtnl: Rtnl, index: int) -> list[bytes]:
    """Return the main table's routes whose one next hop is over an interface, of both families, as messages."""
    listed = (message for family in _FAMILIES for message in _dump(rtnl, family, index=index))
    return [
        message
        for message in listed
        if route.unpack_route(message)[1] == route.RT_TABLE_MAIN
        and number(route.route_attributes(message).get(route.RTA_OIF)) == index
    ]


def tables(rtnl: Rtnl, link: Link, sources: Collection[Interface]) -> set[int]:
    """Return the routing tables that may apply to packets of an interface with these source addresses.

    These are the table of its VRF and the tables of the policy rules (`ip rule`). Rules for other interfaces or
    other source addresses are skipped, and so are inverted rules.
    """
    found = {rtnl.vrf_table(link.master)} if link.master else set()
    for rule in map(unpack_table_rule, rtnl.dump(RTM_GETRULE, pack_rules_request())):
        if rule is None or (rule.interfaces and link.name not in rule.interfaces):
            continue
        if rule.source is None or any(source.ip in rule.source for source in sources):
            found.add(rule.table)
    return found - {0}


def default_routes(family: int) -> list[DefaultRoute]:
    """Return the default routes of AF_INET or AF_INET6 in the calling thread's namespace. Raises OSError."""
    with Rtnl() as rtnl:
        found = filter(route.is_default_route, _dump(rtnl, family))
        return [each for message in found for each in _default_routes(rtnl, message)]


def has_default_route(rtnl: Rtnl, family: int) -> bool:
    """Whether the namespace of the socket has a unicast default route of AF_INET or AF_INET6."""
    return any(map(route.is_default_route, _dump(rtnl, family)))


def default_route_index(rtnl: Rtnl) -> int | None:
    """Return the index of the interface of the first default route, IPv4 before IPv6, in the socket's namespace.

    None if there is none, or if it has several next hops. Raises OSError.
    """
    for family in _FAMILIES:
        for message in filter(route.is_default_route, _dump(rtnl, family)):
            hops = _hops(rtnl, route.route_attributes(message))
            return hops[0].index if len(hops) == 1 else None
    return None


def remove_route(found: DefaultRoute) -> None:
    """Remove a route that `default_routes` returned, in the same namespace. Raises OSError."""
    with Rtnl() as rtnl:
        rtnl.do(route.RTM_DELROUTE, found.message)


def default_route_interfaces() -> set[str]:
    """Return the names of the interfaces of all default routes in this thread's namespace. Raises OSError."""
    names = set()
    for index in _default_route_indexes():
        with contextlib.suppress(OSError):  # it was removed meanwhile, and its routes with it
            names.add(socket.if_indextoname(index))
    return names


class DefaultRouteEvents(NetlinkSocket):
    """Notifies that the interfaces with a default route may have changed, in this thread's network namespace.

    That is the case when such a route is added or removed, or an interface joins or leaves a bond or bridge.
    Raises OSError.
    """

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)
        self.subscribe(groups=_GROUPS)
        self._seen_indexes = _default_route_indexes()  # of interfaces that have or had a default route
        self._masters: dict[int, int] = {}

    def drain(self) -> bool:
        """Process all notifications; return whether the interfaces with a default route may have changed."""
        changed = False
        for datagram in self.notifications():
            for message in messages(datagram or b""):
                changed = self._is_change(message.kind, message.payload) or changed
            changed = changed or datagram is None
        return changed

    def _is_change(self, kind: int, payload: bytes) -> bool:
        if kind in {route.RTM_NEWROUTE, route.RTM_DELROUTE}:
            if not route.is_default_route(payload):
                return False
            self._seen_indexes.update(hop.index for hop in route.unpack_hops(route.route_attributes(payload)))
            return True
        # The kernel does not notify of IPv4 routes that it removes together with an address or link.
        if kind == RTM_DELADDR:
            return IFADDRMSG.unpack_from(payload)[4] in self._seen_indexes
        if kind in {RTM_NEWLINK, RTM_DELLINK}:
            family, _, index, flags, _ = IFINFOMSG.unpack_from(payload)
            is_down = kind == RTM_DELLINK or not flags & IFF_UP
            moved = family == socket.AF_UNSPEC and self._has_moved(index, attributes(payload, IFINFOMSG.size))
            return moved or (is_down and index in self._seen_indexes)
        return False

    def _has_moved(self, index: int, seen: Mapping[int, bytes]) -> bool:
        """Whether the interface of a device has another master than at the last notification."""
        if IFLA_PARENT_DEV_NAME not in seen:  # a virtual interface: every pod has some
            return False
        master = number(seen.get(IFLA_MASTER))
        before, self._masters[index] = self._masters.get(index, 0), master
        return before != master


def _dump(rtnl: Rtnl, family: int, *, index: int = 0) -> list[bytes]:
    """Return all routes of a family, or those over an interface, each starting at its struct rtmsg."""
    try:
        return rtnl.dump(route.RTM_GETROUTE, route.pack_request(family, index=index))
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:  # a kernel without IPv6
            return []
        raise


def _default_route_indexes() -> set[int]:
    return {index for family in _FAMILIES for each in default_routes(family) for index in each.indexes}


def _default_routes(rtnl: Rtnl, message: bytes) -> Iterator[DefaultRoute]:
    """Yield the route of a kernel message; of an IPv6 multipath route, one route per next hop."""
    seen = route.route_attributes(message)
    hops = _hops(rtnl, seen)
    indexes = frozenset(hop.index for hop in hops)
    gateway = hops[0].gateway if len(hops) == 1 else ""
    # The kernel lists the next hops of a nexthop object beside its id; RTM_DELROUTE accepts the id only.
    if route.RTA_NH_ID in seen:
        listed = (route.RTA_OIF, route.RTA_GATEWAY, route.RTA_VIA, route.RTA_MULTIPATH, route.RTA_ENCAP)
        yield DefaultRoute(indexes, gateway, route.without_attributes(message, listed))
    elif route.RTA_MULTIPATH in seen and message[0] == socket.AF_INET6:
        for hop in hops:
            one = route.without_attributes(message, (route.RTA_MULTIPATH,)) + u32(route.RTA_OIF, hop.index)
            if hop.gateway:
                one += attribute(route.RTA_GATEWAY, socket.inet_pton(socket.AF_INET6, hop.gateway))
            yield DefaultRoute(frozenset({hop.index}), hop.gateway, one)
    else:
        yield DefaultRoute(indexes, gateway, message)


def _hops(rtnl: Rtnl, seen: Mapping[int, bytes]) -> list[Hop]:
    """Return the next hops of a route, given its attributes.

    The kernel omits those of a nexthop object (`ip nexthop`) if the sysctl nexthop_compat_mode is off: then the
    object is looked up.
    """
    found = list(route.unpack_hops(seen))
    if found or route.RTA_NH_ID not in seen:
        return found
    return list(_hops_of_object(rtnl, number(seen[route.RTA_NH_ID])))


def _hops_of_object(rtnl: Rtnl, identity: int) -> Iterator[Hop]:
    try:
        answer = rtnl.get(route.RTM_GETNEXTHOP, route.pack_nexthop_request(identity))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # it was removed meanwhile, and its routes with it
            raise
        return
    members, own = route.unpack_nexthop(answer)
    for member in members:
        yield from _hops_of_object(rtnl, member)
    yield from own
