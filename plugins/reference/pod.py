"""A pod's interface, as the reference plugins configure and check it: addresses, routes, sysctls."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, as_error, os_errors
from wirespeed.ipam import Ipam, addressing
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink import address, virtual
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import IF_OPER_UP, Link
from wirespeed.kernel.netlink.route import RT_SCOPE_UNIVERSE, RTMGRP_IPV6_IFADDR, RTPROT_BOOT
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.kernel.netns import NetNs

_DEFAULT = {"0.0.0.0/0": socket.AF_INET, "::/0": socket.AF_INET6}
_DAD_TIMEOUT = 5.0  # seconds for the kernel to detect that nobody else has an address


class Sides(NamedTuple):
    """The pod's network namespace, a netlink socket in it, and one on the node."""

    ns: NetNs
    pod: Rtnl
    host: Rtnl


@contextmanager
def opened(request: Request) -> Iterator[Sides]:
    """Open both sides of the request. Raises Error(NOT_ATTACHED)."""
    with ExitStack() as stack:
        ns = stack.enter_context(netns.opened(request.netns))
        yield Sides(ns, stack.enter_context(Rtnl(netns_fd=ns.fd)), stack.enter_context(Rtnl()))


@contextmanager
def opened_pod(request: Request) -> Iterator[Rtnl | None]:
    """Open a netlink socket in the pod for a DEL; None if its namespace is gone."""
    if not request.netns:
        yield None
        return
    try:
        with netns.opened(request.netns) as ns, Rtnl(netns_fd=ns.fd) as pod:
            yield pod
    except Error as error:
        if error.kind != Kind.NOT_ATTACHED:
            raise
        yield None


def random_name() -> str:
    """Return a name for an interface on the node, as the reference plugins make it."""
    return f"veth{secrets.token_hex(4)}"


def create_veth(sides: Sides, ifname: str, node: int, *, mtu: int = 0, mac: str = "") -> Link:
    """Create the pod's interface as a veth, whose peer is on the node; return the peer. Raises NetlinkError.

    The message goes through the pod's socket: the kernel looks for a free name in the namespace of the socket.
    """
    peer = random_name()
    data = virtual.veth_data(peer, mtu=mtu, netns_fd=node, txqlen=0)
    sides.pod.create_link(ifname, virtual.VETH, data=data, mtu=mtu, mac=mac)
    return find(sides.host, peer)


def enable_forwarding(name: str) -> None:
    """Switch on a sysctl of forwarding ("ipv4/ip_forward") on the node. Raises Error(IO)."""
    path = Path("/proc/sys/net") / name
    with os_errors(f"sysctl {path}"):
        if path.read_text().strip() != "1":
            path.write_text("1")


def enable_forwarding_of(ips: Sequence[Mapping[str, Any]]) -> None:
    """Switch on forwarding on the node, for the families of a result's addresses. Raises Error(IO)."""
    for six in sorted({_is_ipv6(ip["address"]) for ip in ips}):
        enable_forwarding("ipv6/conf/all/forwarding" if six else "ipv4/ip_forward")


def find(rtnl: Rtnl, name: str, what: str = "interface") -> Link:
    """Return an interface by name. Raises Error(INTERFACE)."""
    found = rtnl.link(name)
    if found is None:
        raise Error(Kind.INTERFACE, "no such interface", where=f"{what} {name}")
    return found


def delete_interface(request: Request) -> None:
    """Delete the pod's interface, if the pod and the interface exist. Raises Error(INTERFACE)."""
    with opened_pod(request) as pod:
        if pod is None:
            return
        with interface_errors(f"interface {request.ifname}"):
            try:
                pod.delete_link(request.ifname)
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise


@contextmanager
def interface_errors(where: str) -> Iterator[None]:
    """Raise the kernel's errors in the block as Error(INTERFACE)."""
    try:
        yield
    except OSError as error:
        raise as_error(error, where).of_kind(Kind.INTERFACE) from error


def write_sysctls(ns: NetNs | None, values: Mapping[str, str]) -> None:
    """Write sysctls ("net/ipv4/conf/eth0/arp_notify") in a namespace, or in this thread's.

    One that cannot be written is skipped, as the reference plugins do: /proc/sys may be read-only.
    """

    def write() -> None:
        for name, value in values.items():
            _try_write(f"/proc/sys/{name}", value)

    if ns is None:
        write()
    else:
        netns.inside(ns.fd, write)


def _try_write(path: str, value: str) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(file, value.encode())
    except OSError:
        return
    finally:
        os.close(file)


def configure(sides: Sides, link: Link, result: Result, sysctls: Mapping[str, str] | None = None) -> None:
    """Add the addresses and routes of a result to the pod's interface, and set it up. Raises Error(ADDRESS).

    `sysctls` are written first.
    """
    ips = result["ips"]
    prepared = dict(sysctls or {})
    if any(_is_ipv6(ip["address"]) for ip in ips):
        addressing.enable_ipv6(sides.ns, link.name)
        prepared[f"net/ipv6/conf/{link.name}/keep_addr_on_down"] = "1"
    if prepared:
        write_sysctls(sides.ns, prepared)
    for ip in ips:
        with address_errors(f"address {ip['address']} on {link.name}"):
            sides.pod.add_address(link.index, ip["address"], detect_duplicates=True)
    with interface_errors(f"interface {link.name}"):
        sides.pod.set_link(link.index, up=True)
    if any(ip.get("gateway") and _is_ipv6(ip["gateway"]) for ip in ips):
        _wait_until_usable(sides.ns, link)
    for route in result["routes"]:
        _add_route(sides.pod, link, route, ips)


def allocate(request: Request, ipam: Ipam) -> Result:
    """Return addresses of the request's IPAM plugin. Raises Error(ADDRESS) if it gives none."""
    result = ipam.add(request)
    if not result["ips"]:
        raise Error(Kind.ADDRESS, "it gave no address", where=f"ipam {request.config['ipam']['type']}")
    return result


def _is_ipv6(text: str) -> bool:
    return ":" in text


@contextmanager
def address_errors(where: str) -> Iterator[None]:
    """Raise the kernel's errors in the block as Error(ADDRESS)."""
    try:
        yield
    except NetlinkError as error:
        raise as_error(error, where).of_kind(Kind.ADDRESS) from error


def _add_route(pod: Rtnl, link: Link, route: Mapping[str, Any], ips: Sequence[Mapping[str, Any]]) -> None:
    six = _is_ipv6(route["dst"])
    gateway = route.get("gw") or next(
        (ip["gateway"] for ip in ips if ip.get("gateway") and _is_ipv6(ip["gateway"]) == six), ""
    )
    with address_errors(f"route {route['dst']} via {gateway or 'link'} on {link.name}"):
        pod.add_route(
            link.index,
            route["dst"],
            gateway=gateway,
            priority=route.get("priority", 0),
            table=route.get("table", 0),
            scope=route.get("scope", RT_SCOPE_UNIVERSE),
            protocol=RTPROT_BOOT,
        )


def _wait_until_usable(ns: NetNs, link: Link) -> None:
    """Wait until the kernel has checked that no neighbour has the interface's IPv6 addresses.

    Raises Error(ADDRESS) for a duplicate. Without a carrier the check cannot end, so that is no error.
    """

    def flags(rtnl: Rtnl) -> list[int]:
        listed = rtnl.dump(address.RTM_GETADDR, address.IFADDRMSG.pack(socket.AF_INET6, 0, 0, 0, link.index))
        return [address.unpack_flags(payload) for payload in listed]

    def settled(rtnl: Rtnl) -> list[int] | None:
        found = flags(rtnl)
        failed = any(each & address.IFA_F_DADFAILED for each in found)
        return found if failed or not any(each & address.IFA_F_TENTATIVE for each in found) else None

    found = netns.inside(ns.fd, lambda: wait_for(settled, _DAD_TIMEOUT, groups=RTMGRP_IPV6_IFADDR))
    where = f"interface {link.name}"
    if found is None:
        with Rtnl(netns_fd=ns.fd) as pod:
            now = pod.link(link.index)
        if now is not None and now.operstate == IF_OPER_UP:
            what = f"the kernel still checks its IPv6 addresses after {_DAD_TIMEOUT:.0f} s"
            raise Error(Kind.ADDRESS, what, where=where)
    elif any(each & address.IFA_F_DADFAILED for each in found):
        raise Error(Kind.ADDRESS, "a neighbour already has one of its IPv6 addresses", where=where)


def drift(
    request: Request, pod: Rtnl, kind: str | None, more: Callable[[Link], Iterable[str]] = lambda _: ()
) -> list[str]:
    """Return how the pod's interface differs from prevResult, as messages.

    It must be of that kind ("veth" ...; None: any). `more` returns messages about an interface of that kind.
    """
    previous = results.read(request.config.get("prevResult"))
    listed = enumerate(previous["interfaces"])
    found = ((n, each) for n, each in listed if each["name"] == request.ifname and each.get("sandbox"))
    number, expected = next(found, (0, None))
    if expected is None:
        raise Error(Kind.INVALID_DATA, where="prevResult", expected=f"an interface {request.ifname} of the pod")
    link = pod.link(request.ifname)
    if link is None:
        return [f"the pod has no interface {request.ifname}"]
    if kind is None or link.kind == kind:
        wrong = list(more(link))
    else:
        wrong = [f"{link.name} is of kind {link.kind or 'physical'}, not {kind}"]
    if expected.get("mac") not in {None, "", link.mac}:
        wrong.append(f"the MAC of {link.name} is {link.mac}, not {expected['mac']}")
    default = [route for route in previous["routes"] if route["dst"] in _DEFAULT]
    routes_left = [route for route in previous["routes"] if route not in default]
    wrong += addressing.missing(pod, link, {**previous, "routes": routes_left}, number)
    # Another network of the pod may have taken the default route.
    lost = [route["dst"] for route in default if not routes.has_default_route(pod, _DEFAULT[route["dst"]])]
    return wrong + [f"there is no route to {destination}" for destination in lost]


def raise_drift(wrong: Sequence[str]) -> None:
    """Raise Error(DRIFT) if there are messages."""
    if wrong:
        raise Error(Kind.DRIFT, ", ".join(wrong))
