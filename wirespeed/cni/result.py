"""Results of ADD: read from any version of the specification, kept in the format of 1.1.0, written in any.

A result in this code always has "interfaces", "ips", "routes" (lists) and "dns" (an object), which may be empty,
and no cniVersion (? means optional):

    interfaces: name, mac?, mtu?, sandbox?, socketPath?, pciID?
    ips:        address ("10.1.2.3/24"), gateway?, interface? (index into interfaces)
    routes:     dst ("0.0.0.0/0"), gw?, mtu?, advmss?, priority?, table?, scope?
    dns:        nameservers?, domain?, search?, options?

Addresses are written as the reference plugins write them: "2001:db8::1", and an IPv4-mapped address as IPv4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wirespeed.cni import versions
from wirespeed.cni.address import parse_ip, parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result

# Versions without interfaces and chains: one address of each family, with its routes.
_OLD = ("0.1.0", "0.2.0")
_SINCE_0_3_0 = ("interfaces", "ips")  # keys that results of older versions never have
_WITH_IP_VERSION = frozenset({"0.3.0", "0.3.1", "0.4.0"})

ROUTE_KEYS = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
DNS_KEYS = ("nameservers", "domain", "search", "options")


def empty() -> Result:
    """Return an empty result."""
    return {"interfaces": [], "ips": [], "routes": [], "dns": {}}


def read(raw: object, version: str | None = None) -> Result:
    """Read a result from a decoded JSON object of any version from 0.1.0.

    The version is the object's own cniVersion, else `version`, else it is inferred from the keys. Keys that the
    specification does not define are dropped. Raises CniError(DECODING_FAILURE) that names the field:
    'result: ips[0].address: expected an address with prefix length, got "10.0.0.1"'.
    """
    try:
        return _read(raw, version)
    except CniError as error:
        raise error.prefixed("result") from None


def read_routes(raw: object) -> list[dict[str, Any]]:
    """Read the routes of a configuration or result. Raises CniError(DECODING_FAILURE): 'routes[0].dst: ...'."""
    return _each("routes", {"routes": raw}, _read_route)


def read_dns(raw: object) -> dict[str, Any]:
    """Read the DNS of a configuration or result. Raises CniError(DECODING_FAILURE): 'dns.search: ...'."""
    if raw is None:
        return {}
    fields = _object("dns", raw)
    found: dict[str, Any] = {}
    _copy("dns", fields, found, {"nameservers": _strings, "domain": _string})
    _copy("dns", fields, found, {"search": _strings, "options": _strings})
    return found


def _read(raw: object, version: str | None) -> Result:
    fields = _object("", raw)
    spoken = fields.get("cniVersion") or version or ("0.2.0" if "ip4" in fields or "ip6" in fields else None)
    # A plugin called with an old version may print a newer format without a cniVersion.
    if spoken in _OLD and (fields.get("cniVersion") or not any(key in fields for key in _SINCE_0_3_0)):
        return _read_old(fields)
    if spoken is not None and spoken not in versions.SUPPORTED:
        raise _bad("cniVersion", f"one of {', '.join(versions.SUPPORTED)}", spoken)
    interfaces = _each("interfaces", fields, _read_interface)
    ips = _each("ips", fields, _read_ip)
    for index, ip in enumerate(ips):
        if not 0 <= ip.get("interface", 0) < max(len(interfaces), "interface" not in ip):
            raise _bad(f"ips[{index}].interface", f"an index into {len(interfaces)} interfaces", ip["interface"])
    return {
        "interfaces": interfaces,
        "ips": ips,
        "routes": read_routes(fields.get("routes")),
        "dns": read_dns(fields.get("dns")),
    }


def write(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the result in the format of `version`, with cniVersion; what that version lacks is left out.

    Raises CniError(INCOMPATIBLE_VERSION) for an unsupported version.
    """
    versions.check(version)
    if version in _OLD:
        return {"cniVersion": version, **_write_old(result)}
    written: dict[str, Any] = {"cniVersion": version}
    for key, put in (("interfaces", _write_interface), ("ips", _write_ip), ("routes", _write_route)):
        if result.get(key):
            written[key] = [put(item, version) for item in result[key]]
    written["dns"] = dict(result.get("dns") or {})
    return written


# Reading


def _read_interface(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": _string(f"{where}.name", raw.get("name"))}
    _copy(where, raw, found, {"mac": _string, "mtu": _integer, "sandbox": _string})
    _copy(where, raw, found, {"socketPath": _string, "pciID": _string})
    return found


def _read_ip(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"address": _prefix(f"{where}.address", raw.get("address"))}
    _copy(where, raw, found, {"gateway": _address, "interface": _integer})
    return found


def _read_route(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"dst": _prefix(f"{where}.dst", raw.get("dst"))}
    numbers = dict.fromkeys(("mtu", "advmss", "priority", "table"), _u32)
    _copy(where, raw, found, {"gw": _address, **numbers, "scope": _u8})
    return found


def _read_old(fields: Mapping[str, Any]) -> Result:
    """Read the format of 0.1.0 and 0.2.0: ip4 and ip6, each with ip, gateway and routes."""
    found = empty()
    for key in ("ip4", "ip6"):
        if fields.get(key) is None:
            continue
        raw = _object(key, fields[key])
        ip = {"address": _prefix(f"{key}.ip", raw.get("ip"))}
        _copy(key, raw, ip, {"gateway": _address})
        found["ips"].append(ip)
        found["routes"] += _each("routes", raw, _read_route, within=f"{key}.")
    found["dns"] = read_dns(fields.get("dns"))
    return found


def _each(
    key: str,
    fields: Mapping[str, Any],
    one: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    within: str = "",
) -> list[dict[str, Any]]:
    value = fields.get(key)
    if value is None:  # Go encodes a nil slice as null
        return []
    if not isinstance(value, list):
        raise _bad(within + key, "a list", value)
    return [one(where := f"{within}{key}[{index}]", _object(where, item)) for index, item in enumerate(value)]


def _copy(
    where: str, raw: Mapping[str, Any], found: dict[str, Any], kinds: Mapping[str, Callable[[str, object], Any]]
) -> None:
    """Copy the optional fields that are present; null, "" and an empty list count as missing."""
    for key, check in kinds.items():
        value = raw.get(key)
        if value is not None and value not in ("", []):
            found[key] = check(f"{where}.{key}", value)


def _object(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad(where, "an object", value)
    return value


def _string(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(where, "a string", value)
    return value


def _strings(where: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _bad(where, "a list of strings", value)
    return value


def _integer(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(where, "an integer", value)
    return value


def _u32(where: str, value: object) -> int:
    """Read an unsigned 32-bit number; a negative one counts as 0, as in the reference plugins."""
    if _integer(where, value) >= 1 << 32:
        raise _bad(where, "an integer of 32 bits", value)
    return max(0, _integer(where, value))


def _u8(where: str, value: object) -> int:
    number = _integer(where, value)
    if not 0 <= number < 256:
        raise _bad(where, "an integer from 0 to 255", value)
    return number


def _address(where: str, value: object) -> str:
    ip = parse_ip(value)
    if ip is None:
        raise _bad(where, "an IP address", value)
    return str(ip)


def _prefix(where: str, value: object) -> str:
    prefix = parse_prefix(value)
    if prefix is None:
        raise _bad(where, "an address with prefix length", value)
    return str(prefix)


def _bad(where: str, expected: str, got: object) -> CniError:
    at = f"{where}: " if where else ""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return CniError(Code.DECODING_FAILURE, f"{at}expected {expected}, got {shown}")


# Writing


def _write_old(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the format of 0.1.0 and 0.2.0: the first address of each family, with the routes of that family."""
    written: dict[str, Any] = {}
    for ip in result.get("ips") or ():
        written.setdefault(_old_key(ip["address"]), {"ip": ip["address"], **_only(ip, ("gateway",))})
    for route in result.get("routes") or ():
        if part := written.get(_old_key(route["dst"])):
            part.setdefault("routes", []).append(_only(route, ("dst", "gw")))
    return {**written, "dns": dict(result.get("dns") or {})}


def _old_key(text: str) -> str:
    return "ip4" if _is_ipv4(text) else "ip6"


def _is_ipv4(text: str) -> bool:
    prefix = parse_prefix(text)
    return prefix is not None and prefix.ip.bits == 32


def _write_interface(interface: Mapping[str, Any], version: str) -> dict[str, Any]:
    keys = ("name", "mac", "mtu", "sandbox", "socketPath", "pciID")
    return _only(interface, keys if version == "1.1.0" else ("name", "mac", "sandbox"))


def _write_ip(ip: Mapping[str, Any], version: str) -> dict[str, Any]:
    written = _only(ip, ("address", "gateway", "interface"))
    if version in _WITH_IP_VERSION:
        return {"version": "4" if _is_ipv4(ip["address"]) else "6", **written}
    return written


def _write_route(route: Mapping[str, Any], version: str) -> dict[str, Any]:
    return _only(route, ROUTE_KEYS if version == "1.1.0" else ("dst", "gw"))


def _only(fields: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: fields[key] for key in keys if fields.get(key) not in (None, "")}
