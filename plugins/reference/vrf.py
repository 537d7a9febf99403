"""vrf: makes the pod's interface a slave of a VRF, which is created when it is first needed.

The kernel takes the interface down for that: the global IPv6 addresses and the routes by gateways that it removes
then are added again, the routes in the VRF's table. The VRF is deleted when its last slave has left.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni import versions
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request, ifname_fault
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink import address, route, virtual
from wirespeed.kernel.netlink.codec import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, number
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import IFLA_VRF_TABLE, Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.kernel.netns import NetNs
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.structs import Words

_OLDEST = "0.3.1"  # version of the specification
_LOCAL_TIMEOUT = 2.5  # seconds for the kernel to use an IPv6 address that was added again


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The plugin's keys. Without a table, the VRF gets the first that no other VRF has."""

    name: Annotated[str, Meta(min_length=1), Words("the name of a VRF")] = msgspec.field(name="vrfname")
    table: conf.Table = 0


class _Saved(NamedTuple):
    """Global IPv6 addresses of an interface, and its routes of IPv6 or by gateways, as the kernel lists them."""

    addresses: Sequence[bytes]
    routes: Sequence[bytes]


class Vrf:
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    def add(self, request: Request) -> Result:
        keys, previous = _read(request)
        with netns.opened(request.netns) as ns, Rtnl(netns_fd=ns.fd) as pod, ExitStack() as undo:
            vrf = _ensure_vrf(pod, keys, undo)
            _enslave(ns, pod, pods.find(pod, request.ifname), vrf, undo)
            undo.pop_all()
        return previous

    def delete(self, request: Request) -> None:
        try:
            name = conf.read(request, Keys).name
        except Error:  # then no ADD has succeeded
            return
        with pods.opened_pod(request) as pod:
            vrf = pod.link(name) if pod is not None else None
            if pod is None or vrf is None or vrf.kind != virtual.VRF:
                return
            link = pod.link(request.ifname)
            with _unless_gone(f"interface {request.ifname}"):
                if link is not None and link.master:
                    pod.set_link(link.index, master=0)
            with _unless_gone(f"VRF {name}"):
                if not any(each.master == vrf.index for each in pod.links()):
                    pod.delete_link(vrf.index)

    def check(self, request: Request) -> None:
        keys, _ = _read(request)
        with netns.opened(request.netns) as ns, Rtnl(netns_fd=ns.fd) as pod:
            vrf, link = pod.link(keys.name), pod.link(request.ifname)
        if vrf is None or vrf.kind != virtual.VRF:
            pods.raise_drift([f"the pod has no VRF {keys.name}"])
        elif link is None or link.master != vrf.index:
            pods.raise_drift([f"{request.ifname} is not in VRF {keys.name}"])

    def gc(self, request: Request) -> None:
        """Nothing outlives the pod's network namespace."""

    def status(self, request: Request) -> None:
        """It needs nothing of the node."""


def _read(request: Request) -> tuple[Keys, Result]:
    """Read the keys and prevResult. Raises Error(INCOMPATIBLE_VERSION, INVALID_CONFIG, INVALID_DATA)."""
    if not versions.at_least(request.version, _OLDEST):
        expected = f"{_OLDEST} or newer for vrf"
        raise Error(Kind.INCOMPATIBLE_VERSION, key="cniVersion", expected=expected, got=request.version)
    return conf.read(request, Keys), conf.previous(request)


@contextmanager
def _unless_gone(where: str) -> Iterator[None]:
    """Raise the kernel's errors in the block as Error(INTERFACE), except that the interface is gone."""
    with pods.interface_errors(where):
        try:
            yield
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise


def _ensure_vrf(pod: Rtnl, keys: Keys, undo: ExitStack) -> Link:
    """Return the VRF, after creating it if it does not exist. Raises Error(INTERFACE, INVALID_CONFIG)."""
    where = f"VRF {keys.name}"
    with pods.interface_errors(where):
        vrf = pod.link(keys.name)
        if vrf is None:
            vrf = _create_vrf(pod, keys, undo)
    if vrf.kind != virtual.VRF:
        raise Error(Kind.INTERFACE, where=f"interface {keys.name}", expected="a VRF", got=vrf.kind or "physical")
    if keys.table not in {0, _table(vrf)}:
        raise Error(Kind.INTERFACE, "it has another table", where=where, expected=str(keys.table), got=_table(vrf))
    return vrf


def _create_vrf(pod: Rtnl, keys: Keys, undo: ExitStack) -> Link:
    """Raises NetlinkError and Error(INVALID_CONFIG)."""
    if fault := ifname_fault(keys.name):
        raise Error(Kind.INVALID_CONFIG, fault, key="vrfname")
    table = keys.table or _free_table(pod)
    try:
        pod.create_link(keys.name, virtual.VRF, data=virtual.vrf_data(table), up=True)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:  # else another ADD has created it meanwhile
            raise
        return pods.find(pod, keys.name, "VRF")
    vrf = pods.find(pod, keys.name, "VRF")
    undo.callback(_try, pod.delete_link, vrf.index)
    return vrf


def _free_table(pod: Rtnl) -> int:
    taken = {_table(each) for each in pod.links() if each.kind == virtual.VRF}
    return next(table for table in count(1) if table not in taken)


def _table(vrf: Link) -> int:
    return number(vrf.data.get(IFLA_VRF_TABLE))


def _enslave(ns: NetNs, pod: Rtnl, link: Link, vrf: Link, undo: ExitStack) -> None:
    """Make the interface a slave of the VRF. Raises Error(INTERFACE, ADDRESS)."""
    where = f"interface {link.name}"
    if link.master:
        master = pod.link(link.master)
        raise Error(
            Kind.INTERFACE, f"it already has the master {master.name if master else link.master}", where=where
        )
    with pods.address_errors(where):
        saved = _Saved(
            [each for each in _ipv6_addresses(pod, link) if address.is_global(each)],
            [
                each
                for each in routes.of_main_table(pod, link.index)
                if route.scope_of(each) == route.RT_SCOPE_UNIVERSE
            ],
        )
    with pods.interface_errors(where):
        pod.set_link(link.index, master=vrf.index)
    undo.callback(_try, _release, ns, pod, link, saved)
    _restore(ns, pod, link, saved, table=_table(vrf), local=_table(vrf))


def _release(ns: NetNs, pod: Rtnl, link: Link, saved: _Saved) -> None:
    pod.set_link(link.index, master=0)
    saved = saved._replace(addresses=saved.addresses[::-1])  # the kernel lists the last one that was added first
    _restore(ns, pod, link, saved, table=route.RT_TABLE_MAIN, local=route.RT_TABLE_LOCAL)


def _try(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of an undo: the error that made it necessary is the one to report."""
    with suppress(Error, OSError):
        function(*arguments)


def _restore(ns: NetNs, pod: Rtnl, link: Link, saved: _Saved, *, table: int, local: int) -> None:
    """Add again what the kernel has removed, the routes in the given table. Raises Error(ADDRESS).

    `local` is the table in which the kernel has the interface's addresses.
    """
    if saved.addresses:
        left = {address.unpack_address(each) for each in _ipv6_addresses(pod, link)}
        lost = [each for each in saved.addresses if address.unpack_address(each) not in left]
        for each in lost:
            with pods.address_errors(f"address {address.unpack_address(each)} on {link.name}"):
                pod.do(address.RTM_NEWADDR, address.pack_again(each), NLM_F_CREATE | NLM_F_EXCL)
        _wait_until_local(ns, link, lost, local)
    for each in saved.routes:
        with pods.address_errors(f"route {route.unpack_route(each)[0]} in table {table}"):
            packed = route.pack_copy(each, table, keep_onlink=True)
            pod.do(route.RTM_NEWROUTE, packed, NLM_F_CREATE | NLM_F_REPLACE)


def _ipv6_addresses(pod: Rtnl, link: Link) -> list[bytes]:
    return pod.dump(address.RTM_GETADDR, address.IFADDRMSG.pack(socket.AF_INET6, 0, 0, 0, link.index))


def _wait_until_local(ns: NetNs, link: Link, added: Sequence[bytes], table: int) -> None:
    """Wait until the kernel has routes to these addresses, which it adds a little later. Raises Error(ADDRESS)."""
    wanted = {(ipaddress.ip_network(address.unpack_address(each).ip), table) for each in added}
    if not wanted:
        return

    def present(rtnl: Rtnl) -> bool | None:
        request = route.pack_request(socket.AF_INET6, index=link.index)
        listed = map(route.unpack_route, rtnl.dump(route.RTM_GETROUTE, request))
        return wanted <= set(listed) or None

    if not netns.inside(ns.fd, lambda: wait_for(present, _LOCAL_TIMEOUT, groups=route.RTMGRP_IPV6_ROUTE)):
        what = f"its IPv6 addresses are not usable after {_LOCAL_TIMEOUT} s"
        raise Error(Kind.ADDRESS, what, where=f"interface {link.name}")
