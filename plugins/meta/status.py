"""The network-status of a pod: what each attachment is called and got, for the annotation of that name."""

from __future__ import annotations

import ipaddress
from typing import Any

Entry = dict[str, Any]


def entries(
    *, label: str, ifname: str, master: bool, result: dict[str, Any], device_info: dict[str, Any] | None
) -> list[Entry]:
    """The entries of one attachment, from its result in the shape of CNI 1.1.0.

    One entry with all addresses where the result has one interface or none; else one for each interface
    inside the pod, with the addresses that point at it. Keys in the order name, interface, ips (without
    prefix), mac, mtu, default (only when true), dns, device-info, gateway; those without a value are left
    out, except dns.
    """
    interfaces = list(enumerate(result.get("interfaces") or ()))
    inside = [(index, interface) for index, interface in interfaces if interface.get("sandbox")]
    ips = result.get("ips") or []
    if len(interfaces) <= 1 or not inside:
        interface = inside[-1][1] if inside else {"name": ifname}
        groups = [(interface, ips)]
    else:
        groups = [(interface, [ip for ip in ips if _owner(ip, inside) == index]) for index, interface in inside]
    default = next((n for n, (_, own) in enumerate(groups) if any(ip.get("gateway") for ip in own)), 0)
    return [
        _entry(
            label=label,
            interface={"name": ifname, **interface},
            ips=own,
            default=master and number == default,
            result=result,
            device_info=device_info,
        )
        for number, (interface, own) in enumerate(groups)
    ]


def _owner(ip: dict[str, Any], inside: list[tuple[int, dict[str, Any]]]) -> int:
    """The index of the interface that an address belongs to; one that says nothing is the last one's."""
    index = ip.get("interface")
    return index if isinstance(index, int) else inside[-1][0]


def _entry(
    *,
    label: str,
    interface: dict[str, Any],
    ips: list[dict[str, Any]],
    default: bool,
    result: dict[str, Any],
    device_info: dict[str, Any] | None,
) -> Entry:
    entry: Entry = {"name": label, "interface": interface["name"]}
    if ips:
        entry["ips"] = [str(ip["address"]).partition("/")[0] for ip in ips]
    for key in ("mac", "mtu"):
        if interface.get(key):
            entry[key] = interface[key]
    if default:
        entry["default"] = True
    entry["dns"] = result.get("dns") or {}
    if device_info:
        entry["device-info"] = device_info
    if gateways := _gateways(result):
        entry["gateway"] = gateways
    return entry


def _gateways(result: dict[str, Any]) -> list[str]:
    """The gateways of the default routes; a route without one goes by that of the address of its family."""
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
