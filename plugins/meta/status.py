"""Builds the entries of a pod's network-status annotation."""

from __future__ import annotations

import ipaddress
from typing import Any

Entry = dict[str, Any]


def entries(
    *, label: str, ifname: str, master: bool, result: dict[str, Any], device_info: dict[str, Any] | None
) -> list[Entry]:
    """Return the entries of one attachment, from its result in the shape of CNI 1.1.0.

    If the result has at most one interface, or none inside the pod, there is one entry with all addresses.
    Otherwise there is one for each interface inside the pod, with the addresses whose `interface` index points at
    it. Keys in the order name, interface, ips (without prefix), mac, mtu, default (only if true), dns,
    device-info, gateway; keys without a value are left out, except dns.
    """
    interfaces = list(enumerate(result.get("interfaces") or ()))
    inside = [(index, interface) for index, interface in interfaces if interface.get("sandbox")]
    ips = result.get("ips") or []
    if len(interfaces) <= 1 or not inside:
        interface = inside[-1][1] if inside else {"name": ifname}
        groups = [(interface, ips)]
    else:
        last = inside[-1][0]  # has the addresses without an interface
        groups = [(each, [ip for ip in ips if ip.get("interface", last) == index]) for index, each in inside]
    default = next((n for n, (_, own) in enumerate(groups) if any(ip.get("gateway") for ip in own)), 0)
    common = {"dns": result.get("dns") or {}, "device-info": device_info, "gateway": _gateways(result)}
    found = []
    for number, (interface, own) in enumerate(groups):
        entry = {
            "name": label,
            "interface": interface.get("name", ifname),
            "ips": [str(ip["address"]).partition("/")[0] for ip in own],
            "mac": interface.get("mac"),
            "mtu": interface.get("mtu"),
            "default": master and number == default,
            **common,
        }
        found.append({key: value for key, value in entry.items() if value or key == "dns"})
    return found


def _gateways(result: dict[str, Any]) -> list[str]:
    """Return the gateways of the default routes; a route without one uses those of its family's addresses."""
    found: list[str] = []
    for route in result.get("routes") or ():
        destination = ipaddress.ip_network(route["dst"], strict=False)
        if destination.prefixlen:
            continue
        gateways = (
            [route["gw"]]
            if route.get("gw")
            else [
                ip["gateway"]
                for ip in result.get("ips") or ()
                if ip.get("gateway") and ipaddress.ip_address(ip["gateway"]).version == destination.version
            ]
        )
        found += [gateway for gateway in gateways if gateway not in found]
    return found
