"""sbr: routes what a pod sends from an address of its interface by a table of that address (source-based routing).

Each table gets a default route by the address's gateway, and the interface's routes that fit the address; those are
then deleted from the main table. With the key `table`, only the rules are added: others fill that table.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink import route
from wirespeed.kernel.netlink.codec import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attribute, u32
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.route import RTM_DELROUTE, RTM_NEWROUTE
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.rule import (
    RTM_DELRULE,
    RTM_GETRULE,
    RTM_NEWRULE,
    PolicyRule,
    pack_rule,
    pack_rules_request,
    unpack_rule,
)
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods

_FIRST_TABLE = 100
_GONE = frozenset({errno.ENOENT, errno.ESRCH})  # of a rule, of a route
_OPPOSITE = {RTM_NEWRULE: RTM_DELRULE, RTM_NEWROUTE: RTM_DELROUTE, RTM_DELROUTE: RTM_NEWROUTE}


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The plugin's keys."""

    table: conf.Table | None = None


class Sbr:
    """The plugin (`wirespeed.cni.plugin.Plugin`). As the executable, it checks nothing in a CHECK."""

    def add(self, request: Request) -> Result:
        table = conf.read(request, Keys).table
        previous = conf.previous(request)
        ips = _ips(previous, request.ifname)
        with _locked(request) as pod, ExitStack() as undo:
            changes = _Changes(pod, undo)
            if table is None:
                _route_by_source(changes, request.ifname, ips)
            else:
                for ip in ips:
                    changes.add_rule(ip, table)
            undo.pop_all()
        return previous

    def delete(self, request: Request) -> None:
        """Delete the rules for the interface's addresses, in any table, or in that of the configuration."""
        with pods.opened_pod(request) as pod:
            if pod is None or (link := pod.link(request.ifname)) is None:
                return
            try:
                table = conf.read(request, Keys).table
            except Error:  # then no ADD has succeeded
                return
            sources = {each.ip for each in pod.addresses(link.index)}
            for each in _rules(pod):
                if each.source in sources and table in {None, 0, each.table}:
                    with pods.address_errors(f"rule for packets from {each.source}"):
                        _delete(pod, RTM_DELRULE, each.message)

    def check(self, request: Request) -> None:
        """The rules and routes are not checked."""

    def gc(self, request: Request) -> None:
        """Nothing outlives the pod's network namespace."""

    def status(self, request: Request) -> None:
        """It needs nothing of the node."""


class _Changes:
    """Changes of rules and routes in a pod, each of which `undo` reverts."""

    def __init__(self, pod: Rtnl, undo: ExitStack) -> None:
        self.pod, self._undo = pod, undo

    def add_rule(self, ip: Mapping[str, Any], table: int) -> None:
        """Add the rule that packets from an address are routed by a table. Raises Error(ADDRESS)."""
        source = ipaddress.ip_interface(ip["address"]).ip
        with pods.address_errors(f"rule for packets from {source}"):
            self._do(RTM_NEWRULE, pack_rule(source, table), NLM_F_CREATE | NLM_F_EXCL)

    def add_route(self, packed: bytes, flags: int) -> None:
        """Add a route. Raises Error(ADDRESS)."""
        network, table = route.unpack_route(packed)
        with pods.address_errors(f"route {network} in table {table}"):
            self._do(RTM_NEWROUTE, packed, NLM_F_CREATE | flags)

    def delete_route(self, packed: bytes) -> None:
        """Delete a route, if it is still there. Raises Error(ADDRESS)."""
        with pods.address_errors(f"route {route.unpack_route(packed)[0]}"):
            _delete(self.pod, RTM_DELROUTE, packed)
            self._undo.callback(self._revert, RTM_DELROUTE, packed)

    def _do(self, kind: int, payload: bytes, flags: int) -> None:
        self.pod.do(kind, payload, flags)
        self._undo.callback(self._revert, kind, payload)

    def _revert(self, kind: int, payload: bytes) -> None:
        with suppress(NetlinkError):  # the error that made this necessary is the one to report
            self.pod.do(_OPPOSITE[kind], payload, NLM_F_CREATE if kind == RTM_DELROUTE else 0)


@contextmanager
def _locked(request: Request) -> Iterator[Rtnl]:
    """Open the pod, locked as the executable does it: another ADD would find the same tables free."""
    with netns.opened(request.netns) as ns, Rtnl(netns_fd=ns.fd) as pod:
        fcntl.flock(ns.fd, fcntl.LOCK_EX)  # until it is closed
        yield pod


def _ips(previous: Result, ifname: str) -> list[Mapping[str, Any]]:
    """Return the addresses that the result does not give to another interface. Raises Error(ADDRESS)."""
    if not previous["ips"]:
        raise Error(Kind.ADDRESS, "the earlier plugins of the chain gave no address", where=f"interface {ifname}")
    others = {n for n, each in enumerate(previous["interfaces"]) if each["name"] != ifname}
    return [ip for ip in previous["ips"] if ip.get("interface") not in others]


def _route_by_source(changes: _Changes, ifname: str, ips: Sequence[Mapping[str, Any]]) -> None:
    pod = changes.pod
    taken = {each.table for each in _rules(pod)} | {route.RT_TABLE_MAIN}
    index = pods.find(pod, ifname).index
    found = routes.of_main_table(pod, index)
    table = _FIRST_TABLE
    for ip in ips:
        table = _free_table(taken, table)
        changes.add_rule(ip, table)
        if ip.get("gateway"):
            changes.add_route(_default_route(index, ip, table), NLM_F_EXCL)
        network = ipaddress.ip_interface(ip["address"]).network
        for each in found:
            if _fits(each, network):
                changes.add_route(route.pack_copy(each, table), NLM_F_REPLACE)
        table += 1
    # Those to networks last, so that they are the first to be added again: gateways need them.
    for each in sorted(found, key=lambda each: route.RTA_GATEWAY not in route.route_attributes(each)):
        changes.delete_route(route.pack_copy(each, route.RT_TABLE_MAIN, keep_onlink=True))


def _free_table(taken: Collection[int], first: int) -> int:
    """Return the first table that no rule selects. Routes in it do not count, as in the executable."""
    return next(table for table in count(first) if table not in taken)


def _default_route(index: int, ip: Mapping[str, Any], table: int) -> bytes:
    """Pack the default route by the gateway of an address. Raises Error(ADDRESS)."""
    gateway, version = ipaddress.ip_address(ip["gateway"]), ipaddress.ip_interface(ip["address"]).version
    if gateway.version != version:
        where = f"gateway of {ip['address']}"
        raise Error(Kind.ADDRESS, where=where, expected=f"an IPv{version} address", got=ip["gateway"])
    network = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    header = route.pack_route_header(
        network, table=table, scope=route.RT_SCOPE_UNIVERSE, protocol=route.RTPROT_BOOT
    )
    return header + u32(route.RTA_OIF, index) + attribute(route.RTA_GATEWAY, gateway.packed)


def _fits(message: bytes, network: route.Network) -> bool:
    """Whether the route's gateway or source is in a network; any fits that has neither."""
    seen = route.route_attributes(message)
    given = [seen[kind] for kind in (route.RTA_PREFSRC, route.RTA_GATEWAY) if kind in seen]
    return not given or any(ipaddress.ip_address(each) in network for each in given)


def _rules(pod: Rtnl) -> list[PolicyRule]:
    return [unpack_rule(each) for each in pod.dump(RTM_GETRULE, pack_rules_request())]


def _delete(pod: Rtnl, kind: int, payload: bytes) -> None:
    try:
        pod.do(kind, payload)
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
