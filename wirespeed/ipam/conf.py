"""What the IPAM configurations have in common: reading keys, requested addresses, routes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.address import Ip, parse_ip, parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import known_in_any_case, nearest
from wirespeed.cni.request import Request

log = logging.getLogger(__name__)

# A path in a configuration; "" is none.
FilePath = Annotated[str, Meta(pattern=structs.whole("(/.*)?")), structs.Words("an absolute path", "absolute path")]
Routes = Annotated[list[dict[str, Any]], structs.Words("a list of routes", "list of `dst`, `gw` ...")]

T = TypeVar("T")


def canonical(raw: Mapping[str, Any], keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """Return the object with its keys in the spelling of `keys`; they are case-insensitive, as in Go.

    Unknown keys are dropped with a warning instead of an error, as the reference plugins ignore them.
    """

    def warn(key: str) -> None:
        hint = nearest(key, {known.lower(): known for known in keys})
        log.warning('%s: unknown key "%s" is ignored%s', where, key, hint)

    return known_in_any_case(raw, keys, warn)


def address(key: str, value: object) -> Ip:
    """Read an address. Raises CniError(INVALID_CONFIG)."""
    ip = parse_ip(value)
    if ip is None:
        raise structs.wrong(key, "an IP address", value)
    return ip


def objects(key: str, value: object) -> list[dict[str, Any]]:
    """Read a list of objects; None is an empty one. Raises CniError(INVALID_CONFIG)."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise structs.wrong(key, "a list", value)
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise structs.wrong(f"{key}[{index}]", "an object", item)
    return value


def absolute_path(key: str, value: object) -> str:
    """Read a path, "" if there is none. Raises CniError(INVALID_CONFIG)."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise structs.wrong(key, FilePath, value)
    return value


def of_result(read: Callable[[object], T], value: object) -> T:
    """Read a part that has the same format in results and configurations. Raises CniError(INVALID_CONFIG)."""
    try:
        return read(value)
    except CniError as error:
        where, _, fault = error.msg.partition(": ")
        raise CniError(Code.INVALID_CONFIG, f'key "ipam.{where}": {fault}') from None


def routes(ipam: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the routes of the configuration. Raises CniError(INVALID_CONFIG)."""
    listed = objects("ipam.routes", ipam.get("routes"))
    keyed = [canonical(raw, results.ROUTE_KEYS, f"ipam.routes[{index}]") for index, raw in enumerate(listed)]
    return of_result(results.read_routes, keyed)


def dns(ipam: Mapping[str, Any]) -> dict[str, Any]:
    """Read the DNS of the configuration. Raises CniError(INVALID_CONFIG)."""
    value = ipam.get("dns")
    return of_result(
        results.read_dns, canonical(value, results.DNS_KEYS, "ipam.dns") if isinstance(value, dict) else value
    )


def requested(request: Request) -> dict[str, list[str]]:
    """Return the requested addresses by source: "runtimeConfig.ips", "args.cni.ips", "CNI_ARGS IP".

    They may have a prefix length. Raises CniError(INVALID_CONFIG or INVALID_ENVIRONMENT).
    """
    found: dict[str, list[str]] = {}
    for key, value in (
        ("runtimeConfig.ips", _within(request.config, "runtimeConfig").get("ips")),
        ("args.cni.ips", _within(_within(request.config, "args"), "cni", "args.").get("ips")),
    ):
        if value is None:
            continue
        if not isinstance(value, list):
            raise structs.wrong(key, "a list of IP addresses", value)
        for index, text in enumerate(value):
            if parse_ip(text) is None and parse_prefix(text) is None:
                raise structs.wrong(f"{key}[{index}]", "an IP address", text)
        found[key] = value
    listed = [text.strip() for text in request.args.get("IP", "").split(",") if text.strip()]
    for text in listed:
        if parse_ip(text) is None and parse_prefix(text) is None:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS IP: expected an IP address, got {text!r}")
    if listed:
        found["CNI_ARGS IP"] = listed
    return found


def _within(outer: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    value = outer.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise structs.wrong(where + key, "an object", value)
    return value
