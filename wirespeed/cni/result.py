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

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wirespeed.cni import versions
from wirespeed.cni.address import parse_ip, parse_prefix
from wirespeed.cni.plugin import Result
from wirespeed.errors import Error, Kind, within

# Versions without interfaces and chains: one address of each family, with its routes.
_IP4_IP6_VERSIONS = ("0.1.0", "0.2.0")
_SINCE_0_3_0 = ("interfaces", "ips")  # keys that results of older versions never have
_WITH_IP_VERSION = frozenset({"0.3.0", "0.3.1", "0.4.0"})


def empty() -> Result:
    return {"interfaces": [], "ips": [], "routes": [], "dns": {}}


def read(raw: object, version: str | None = None) -> Result:
    """Read a result from a decoded JSON object of any version from 0.1.0.

    The version is the object's own cniVersion, else `version`, else it is inferred from the keys. Keys that the
    specification does not define are dropped. Raises Error(INVALID_DATA) that names the field:
    'result: key "ips[0].address": expected an address with prefix length, got "10.0.0.1"'.
    """
    with within("result"):
        return _read(raw, version)


def read_routes(raw: object) -> list[dict[str, Any]]:
    """Read the routes of a configuration or result. Raises Error(INVALID_DATA): 'key "routes[0].dst": ...'."""
    return _objects("routes", raw, _ROUTE)


def read_dns(raw: object) -> dict[str, Any]:
    """Read the DNS of a configuration or result. Raises Error(INVALID_DATA): 'key "dns.search": ...'."""
    if raw is None:
        return {}
    return _fields("dns", _object("dns", raw), _DNS)


def _read(raw: object, version: str | None) -> Result:
    fields = _object("", raw)
    used = fields.get("cniVersion") or version or ("0.2.0" if "ip4" in fields or "ip6" in fields else None)
    # A plugin called with an old version may print a newer format without a cniVersion.
    if used in _IP4_IP6_VERSIONS and (fields.get("cniVersion") or not any(key in fields for key in _SINCE_0_3_0)):
        return _read_old(fields)
    if used is not None and used not in versions.SUPPORTED:
        raise _invalid("cniVersion", f"one of {', '.join(versions.SUPPORTED)}", used)
    interfaces = _objects("interfaces", fields.get("interfaces"), _INTERFACE)
    ips = _objects("ips", fields.get("ips"), _IP)
    for index, ip in enumerate(ips):
        if not 0 <= ip.get("interface", 0) < max(len(interfaces), "interface" not in ip):
            raise _invalid(
                f"ips[{index}].interface", f"an index into {len(interfaces)} interfaces", ip["interface"]
            )
    return {
        "interfaces": interfaces,
        "ips": ips,
        "routes": read_routes(fields.get("routes")),
        "dns": read_dns(fields.get("dns")),
    }


def write(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the result in the format of a version, without what it lacks. Raises Error(INCOMPATIBLE_VERSION)."""
    versions.check(version)
    if version in _IP4_IP6_VERSIONS:
        return {"cniVersion": version, **_write_old(result)}
    written: dict[str, Any] = {"cniVersion": version}
    new = version == "1.1.0"
    for key, fields in (
        ("interfaces", _INTERFACE if new else ("name", "mac", "sandbox")),
        ("ips", _IP),
        ("routes", _ROUTE if new else ("dst", "gw")),
    ):
        if result.get(key):
            written[key] = [_only(item, fields) for item in result[key]]
    if version in _WITH_IP_VERSION and "ips" in written:
        written["ips"] = [{"version": "4" if _is_ipv4(ip["address"]) else "6", **ip} for ip in written["ips"]]
    written["dns"] = dict(result.get("dns") or {})
    return written


# Reading


def _read_old(fields: Mapping[str, Any]) -> Result:
    """Read the format of 0.1.0 and 0.2.0: ip4 and ip6, each with ip, gateway and routes."""
    found = empty()
    for key in ("ip4", "ip6"):
        if fields.get(key) is None:
            continue
        raw = _object(key, fields[key])
        address = _prefix(f"{key}.ip", raw.get("ip"))
        found["ips"].append({"address": address, **_fields(key, raw, {"gateway": _address})})
        found["routes"] += _objects(f"{key}.routes", raw.get("routes"), _ROUTE)
    found["dns"] = read_dns(fields.get("dns"))
    return found


def _objects(key: str, value: object, fields: _Readers) -> list[dict[str, Any]]:
    """Read a list of objects, of whose `fields` the first is required."""
    if value is None:  # Go encodes a nil slice as null
        return []
    if not isinstance(value, list):
        raise _invalid(key, "a list", value)
    return [
        _fields(at := f"{key}[{index}]", _object(at, item), fields, required=next(iter(fields)))
        for index, item in enumerate(value)
    ]


def _fields(key: str, raw: Mapping[str, Any], fields: _Readers, *, required: str = "") -> dict[str, Any]:
    """Read the fields that are present; null, "" and an empty list count as missing."""
    return {
        name: check(f"{key}.{name}", raw.get(name))
        for name, check in fields.items()
        if name == required or raw.get(name) not in (None, "", [])
    }


def _object(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(key, "an object", value)
    return value


def _string(key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(key, "a string", value)
    return value


def _strings(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _invalid(key, "a list of strings", value)
    return value


def _integer(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(key, "an integer", value)
    return value


def _u32(key: str, value: object) -> int:
    """Read an unsigned 32-bit number; a negative one counts as 0, as in the reference plugins."""
    number = _integer(key, value)
    if number >= 1 << 32:
        raise _invalid(key, "an integer of 32 bits", value)
    return max(0, number)


def _u8(key: str, value: object) -> int:
    number = _integer(key, value)
    if not 0 <= number < 256:
        raise _invalid(key, "an integer from 0 to 255", value)
    return number


def _address(key: str, value: object) -> str:
    ip = parse_ip(value)
    if ip is None:
        raise _invalid(key, "an IP address", value)
    return str(ip)


def _prefix(key: str, value: object) -> str:
    prefix = parse_prefix(value)
    if prefix is None:
        raise _invalid(key, "an address with prefix length", value)
    return str(prefix)


def _invalid(key: str, expected: str, got: object) -> Error:
    return Error(Kind.INVALID_DATA, key=key, expected=expected, got=got)


# The fields of each object, in the order in which they are written.
_Readers = Mapping[str, Callable[[str, object], Any]]
_INTERFACE: _Readers = {
    "name": _string,
    "mac": _string,
    "mtu": _integer,
    **dict.fromkeys(("sandbox", "socketPath", "pciID"), _string),
}
_IP: _Readers = {"address": _prefix, "gateway": _address, "interface": _integer}
_ROUTE: _Readers = {
    "dst": _prefix,
    "gw": _address,
    **dict.fromkeys(("mtu", "advmss", "priority", "table"), _u32),
    "scope": _u8,
}
_DNS: _Readers = {"nameservers": _strings, "domain": _string, "search": _strings, "options": _strings}


# Writing


def _write_old(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the format of 0.1.0 and 0.2.0: the first address of each family, with the routes of that family."""
    written: dict[str, Any] = {}
    for ip in result.get("ips") or ():
        key = "ip4" if _is_ipv4(ip["address"]) else "ip6"
        written.setdefault(key, {"ip": ip["address"], **_only(ip, ("gateway",))})
    for route in result.get("routes") or ():
        if part := written.get("ip4" if _is_ipv4(route["dst"]) else "ip6"):
            part.setdefault("routes", []).append(_only(route, ("dst", "gw")))
    return {**written, "dns": dict(result.get("dns") or {})}


def _is_ipv4(text: str) -> bool:
    prefix = parse_prefix(text)
    return prefix is not None and prefix.ip.bits == 32


def _only(fields: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: fields[key] for key in keys if fields.get(key) not in (None, "")}
