"""The addresses and routes of a pod's interface: giving it what IPAM says, and finding what is missing."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.host import netns
from wirespeed.host.rtnl import NetlinkError, Rtnl

MAIN_TABLE = 254


def configure(inside: Rtnl, ns: netns.NetNs, index: int, ifname: str, addressing: Mapping[str, Any]) -> None:
    """Give an interface of the pod the addresses and routes of an IPAM result. Raises CniError(ADDRESS)."""
    ips = addressing.get("ips") or []
    if any(":" in ip["address"] for ip in ips):
        _enable_ipv6(ns, ifname)
    for ip in ips:
        try:
            inside.add_address(index, ip["address"])
        except NetlinkError as error:
            raise CniError(Code.ADDRESS, f"address {ip['address']} on {ifname}: {error.strerror}") from error
    for route in addressing.get("routes") or []:
        gateway = _gateway(route, ips)
        try:
            inside.add_route(
                index,
                route["dst"],
                gateway=gateway,
                mtu=route.get("mtu", 0),
                advmss=route.get("advmss", 0),
                priority=route.get("priority", 0),
                table=route.get("table", 0),
                scope=route.get("scope"),
            )
        except NetlinkError as error:
            raise CniError(
                Code.ADDRESS, f"route {route['dst']} via {gateway or 'link'} on {ifname}: {error.strerror}"
            ) from error


def missing(inside: Rtnl, index: int, ifname: str, previous: Mapping[str, Any], number: int) -> list[str]:
    """What an earlier result says that the interface has, and it has not.

    `number` is the interface's place in the result's interfaces.
    """
    ips = [ip for ip in previous.get("ips") or [] if ip.get("interface", number) == number]
    there = {ipaddress.ip_interface(address.cidr) for address in inside.addresses(index)}
    wrong = [
        f"address {ip['address']} is missing on {ifname}"
        for ip in ips
        if ipaddress.ip_interface(ip["address"]) not in there
    ]
    routes = {
        (ipaddress.ip_network(route.destination), route.gateway, route.table) for route in inside.routes(index)
    }
    for route in previous.get("routes") or []:
        gateway = _gateway(route, ips)
        wanted = (ipaddress.ip_network(route["dst"], strict=False), gateway, route.get("table") or MAIN_TABLE)
        if wanted not in routes:
            wrong.append(f"route {route['dst']} via {gateway or 'link'} is missing on {ifname}")
    return wrong


def _gateway(route: Mapping[str, Any], ips: Sequence[Mapping[str, Any]]) -> str:
    """The gateway of a route: its own, else that of the addresses of its family (specification, "routes")."""
    six = ":" in route["dst"]
    given = route.get("gw") or next(
        (ip["gateway"] for ip in ips if ip.get("gateway") and (":" in ip["gateway"]) == six), ""
    )
    return str(ipaddress.ip_address(given)) if given else ""


def _enable_ipv6(ns: netns.NetNs, ifname: str) -> None:
    """Runtimes make pods with IPv6 off; an interface that gets such an address has it on."""
    sysctl = Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6")

    def enable() -> None:
        if sysctl.read_text().strip() != "0":  # /proc/sys may be read-only
            sysctl.write_text("0")

    try:
        netns.inside(ns.fd, enable)
    except OSError as error:
        reason = "this kernel has no IPv6" if error.errno == errno.ENOENT else error.strerror
        raise CniError(Code.ADDRESS, f"IPv6 on {ifname}: {reason}") from error
