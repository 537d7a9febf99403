"""Addresses and routes of a pod's interface: configures those of an IPAM result, and lists missing ones."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wirespeed.errors import Error, Kind, as_error
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.route import RT_TABLE_MAIN
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.routes import Route


def configure(inside: Rtnl, ns: netns.NetNs, index: int, ifname: str, addressing: Mapping[str, Any]) -> None:
    """Add the addresses and routes of an IPAM result to an interface of the pod. Raises Error(ADDRESS)."""
    ips = addressing.get("ips") or []
    if any(":" in ip["address"] for ip in ips):
        enable_ipv6(ns, ifname)
    for ip in ips:
        _add_address(inside, index, ifname, ip["address"])
    for route in addressing.get("routes") or []:
        _add_route(inside, index, ifname, route, ips)


def missing(inside: Rtnl, link: Link, previous: Mapping[str, Any], number: int) -> list[str]:
    """Return the addresses and routes of the result `previous` that the interface lacks, as messages.

    `number` is the interface's index in the result. Later plugins of the chain may move routes out of the main
    table: sbr into a table with rules for the interface's addresses, vrf into the VRF's table. A main-table route
    is therefore accepted in any table that routes packets of the interface.
    """
    ips = [ip for ip in previous.get("ips") or [] if ip.get("interface", number) == number]
    present = set(inside.addresses(link.index))
    wrong = [
        f"address {ip['address']} is missing on {link.name}"
        for ip in ips
        if ipaddress.ip_interface(ip["address"]) not in present
    ]
    expected = previous.get("routes") or []
    if not expected:
        return wrong
    found = routes.by_interface(inside, link.index)
    moved = routes.tables(inside, link, present)
    for route in expected:
        gateway = _gateway(route, ips)
        network = ipaddress.ip_network(route["dst"], strict=False)
        table = route.get("table") or RT_TABLE_MAIN
        places = {table} | (moved if table == RT_TABLE_MAIN else set())
        if not any(Route(network, gateway, place) in found for place in places):
            wrong.append(f"route {route['dst']} via {gateway or 'link'} is missing on {link.name}")
    return wrong


def _add_address(inside: Rtnl, index: int, ifname: str, address: str) -> None:
    try:
        inside.add_address(index, address)
    except NetlinkError as error:
        # The kernel may have added it (fe80::...), or the IPAM result contains it twice.
        if error.errno != errno.EEXIST or ipaddress.ip_interface(address) not in inside.addresses(index):
            raise as_error(error, f"address {address} on {ifname}").of_kind(Kind.ADDRESS) from error


def _add_route(
    inside: Rtnl, index: int, ifname: str, route: Mapping[str, Any], ips: Sequence[Mapping[str, Any]]
) -> None:
    gateway = _gateway(route, ips)
    metrics = {key: route.get(key, 0) for key in ("mtu", "advmss")}
    try:
        inside.add_route(
            index,
            route["dst"],
            gateway=gateway,
            priority=route.get("priority", 0),
            table=route.get("table", 0),
            scope=route.get("scope"),
            **metrics,
        )
    except NetlinkError as error:
        if error.errno == errno.EEXIST and not any(metrics.values()):
            return  # the same route exists: it is twice in the IPAM result, or the kernel has added it
        expected = ""
        if gateway and error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL}:
            networks = ", ".join(str(ipaddress.ip_interface(ip["address"]).network) for ip in ips)
            expected = f"a gateway in a network of the interface ({networks or 'it has none'})"
        where = f"route {route['dst']} via {gateway or 'link'} on {ifname}"
        raise Error(Kind.ADDRESS, str(error.strerror), where=where, expected=expected) from error


def _gateway(route: Mapping[str, Any], ips: Sequence[Mapping[str, Any]]) -> str:
    """Return the route's gateway: its own, else that of an address of its family (CNI specification, "routes")."""
    six = ":" in route["dst"]
    given = route.get("gw") or next(
        (ip["gateway"] for ip in ips if ip.get("gateway") and (":" in ip["gateway"]) == six), ""
    )
    return str(ipaddress.ip_address(given)) if given else ""


def enable_ipv6(ns: netns.NetNs, ifname: str) -> None:
    """Enable IPv6, which runtimes may disable in pods, on the interface and on lo, for a pod's own addresses."""

    def enable() -> None:
        for name in ("lo", ifname):
            sysctl = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
            if sysctl.read_text().strip() != "0":  # /proc/sys may be read-only
                sysctl.write_text("0")

    try:
        netns.inside(ns.fd, enable)
    except OSError as error:
        reason = "this kernel has no IPv6" if error.errno == errno.ENOENT else error.strerror
        raise Error(Kind.ADDRESS, str(reason), where=f"IPv6 on {ifname}") from error
