"""Common parts of the IPAM configurations: reading keys, requested addresses, routes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import Ip, Prefix, parse_ip, parse_prefix
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, PathStep, Thing
from wirespeed.keys import unknown_key
from wirespeed.structs import Cell, Words, whole

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

# These are parsed by wirespeed.cni.address. For an optional address, "" means none.
PrefixText = Annotated[str, Words("an address with prefix length", "address with prefix length")]
AddressText = Annotated[str, Words("an IP address", "address")]
# A path in a configuration; "" is none.
FilePath = Annotated[str, Meta(pattern=whole("(/.*)?")), Words("an absolute path", "absolute path")]
_U32 = Annotated[int, Meta(le=2**32 - 1), Words("an integer of 32 bits", "number")]
_Texts = Annotated[list[str], Words("a list of strings", "list of strings")]


class RouteKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of a route; null is the same as no key. As in the reference plugins, negative numbers count as 0."""

    dst: PrefixText
    """required: the destination"""
    gw: AddressText | None = None
    """the next hop; default: the gateway of the address"""
    mtu: _U32 | None = None
    """the MTU of the route"""
    advmss: _U32 | None = None
    """the MSS to advertise"""
    priority: _U32 | None = None
    """the metric"""
    table: _U32 | None = None
    """the routing table"""
    scope: Annotated[int, Meta(ge=0, le=255)] | None = None
    """as in `ip route`: 0 is global, 253 link, 254 host"""


class DnsKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `dns`; null is the same as no key."""

    nameservers: _Texts | None = None
    """addresses of name servers"""
    domain: str | None = None
    """the local domain"""
    search: _Texts | None = None
    """domains to search for short names"""
    options: _Texts | None = None
    """options of resolv.conf"""


Routes = Annotated[list[RouteKeys], Cell("list of objects, see below")]


def read(request: Request, raw: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Read an object of the request's configuration, whose key is `where`. Raises Error(INVALID_CONFIG).

    Keys are case-insensitive, as in Go. Unknown keys are only logged, as the reference plugins ignore them.
    """

    def warn(path: Sequence[PathStep], known: tuple[str, ...]) -> None:
        error = unknown_key(path[-1], known, within=path[:-1], what="it has no effect")
        log.warning("%s", error.within(Thing("network", request.name)))

    return structs.read(structs.normalize_keys(raw, kind, warn, (where,)), kind, where=where)


def address(key: str, text: str) -> Ip:
    """Parse the address of a key. Raises Error(INVALID_CONFIG)."""
    ip = parse_ip(text)
    if ip is None:
        raise structs.wrong(key, AddressText, text)
    return ip


def prefix(key: str, text: str) -> Prefix:
    """Parse the address with prefix length of a key. Raises Error(INVALID_CONFIG)."""
    found = parse_prefix(text)
    if found is None:
        raise structs.wrong(key, PrefixText, text)
    return found


def path(key: str, text: str | None) -> str:
    """Check the path of a key; return "" if there is none. Raises Error(INVALID_CONFIG)."""
    if text and not text.isprintable():
        raise structs.wrong(key, FilePath, text)
    return text or ""


def routes(listed: list[RouteKeys] | None) -> list[dict[str, Any]]:
    """Return the routes of `ipam` in the format of a result. Raises Error(INVALID_CONFIG)."""
    found = []
    for index, keys in enumerate(listed or ()):
        where = f"ipam.routes[{index}]"
        route: dict[str, Any] = {"dst": str(prefix(f"{where}.dst", keys.dst))}
        if keys.gw:
            route["gw"] = str(address(f"{where}.gw", keys.gw))
        for key in ("mtu", "advmss", "priority", "table", "scope"):
            if (number := getattr(keys, key)) is not None:
                route[key] = max(0, number)
        found.append(route)
    return found


def dns(keys: DnsKeys | None) -> dict[str, Any]:
    """Return the DNS of `ipam` in the format of a result."""
    return {key: value for key, value in msgspec.to_builtins(keys or DnsKeys()).items() if value}


class Requested(NamedTuple):
    """A requested address, with or without prefix length, and its key; "" for one from CNI_ARGS."""

    text: str
    key: str = ""

    def wrong(self, expected: str, hint: str = "") -> Error:
        """Return the error for an address that cannot be allocated: INVALID_CONFIG or INVALID_REQUEST."""
        if self.key:
            return Error(Kind.INVALID_CONFIG, key=self.key, expected=expected, got=self.text, hint=hint)
        return Error(Kind.INVALID_REQUEST, where="CNI_ARGS IP", expected=expected, got=self.text, hint=hint)


def requested(request: Request) -> dict[str, list[Requested]]:
    """Return the requested addresses by source: "runtimeConfig.ips", "args.cni.ips", "CNI_ARGS IP".

    Raises Error(INVALID_CONFIG or INVALID_REQUEST).
    """
    found: dict[str, list[Requested]] = {}
    runtime, args = (structs.object_in(request.config, key) for key in ("runtimeConfig", "args"))
    cni = structs.object_in(args, "cni", "args.")
    for key, value in (("runtimeConfig.ips", runtime.get("ips")), ("args.cni.ips", cni.get("ips"))):
        if value is None:
            continue
        if not isinstance(value, list):
            raise structs.wrong(key, "a list of IP addresses", value)
        found[key] = [Requested(text, f"{key}[{index}]") for index, text in enumerate(value)]
    listed = [Requested(text.strip()) for text in request.args.get("IP", "").split(",") if text.strip()]
    if listed:
        found["CNI_ARGS IP"] = listed
    for each in chain.from_iterable(found.values()):
        if parse_ip(each.text) is None and parse_prefix(each.text) is None:
            raise each.wrong("an IP address")
    return found
