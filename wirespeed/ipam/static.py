"""static, in this process: the addresses that the configuration or the runtime names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from wirespeed import structs
from wirespeed.cni.address import parse_ip, parse_prefix
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import conf
from wirespeed.ipam.conf import Requested
from wirespeed.structs import Cell, Words


class AddressKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of an element of `addresses`; null is the same as no key."""

    address: conf.PrefixText
    """required"""
    gateway: conf.AddressText | None = None
    """the gateway of the routes without `gw`"""


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `ipam` of type static; null is the same as no key."""

    type: Annotated[Any, Words("any value", "`static`")] = None
    """selects this plugin"""
    addresses: Annotated[list[AddressKeys] | None, Cell("list of objects, see below")] = None
    """the addresses; if the pod requests addresses (capability `ips`), those replace them"""
    routes: conf.Routes | None = None
    """returned with the addresses, unchanged"""
    dns: Annotated[conf.DnsKeys | None, Cell("object, see below")] = None
    """returned with the addresses, unchanged"""


def add(request: Request) -> Result:
    """Return the addresses to use, with the routes and DNS of the configuration.

    As in the reference plugin, these are runtimeConfig.ips, else args.cni.ips, else `addresses` and CNI_ARGS IP. In
    the last case, an address without a gateway gets the gateway of CNI_ARGS GATEWAY that is in its network.
    Raises Error(INVALID_CONFIG, INVALID_REQUEST) that names the key.
    """
    keys = conf.read(request, request.config["ipam"], Keys, "ipam")
    configured = _configured(keys.addresses or ())
    asked = conf.requested(request)
    if instead := asked.get("runtimeConfig.ips") or asked.get("args.cni.ips"):
        ips = _with_prefix_length(instead)
    else:
        ips = configured + _with_prefix_length(asked.get("CNI_ARGS IP", ()))
        _set_gateways(ips, request.args.get("GATEWAY", ""))
    return {"ips": ips, "routes": conf.routes(keys.routes), "dns": conf.dns(keys.dns)}


def _configured(addresses: Sequence[AddressKeys]) -> list[dict[str, Any]]:
    ips = []
    for index, keys in enumerate(addresses):
        where = f"ipam.addresses[{index}]"
        ip = {"address": str(conf.prefix(f"{where}.address", keys.address))}
        if keys.gateway:
            ip["gateway"] = str(conf.address(f"{where}.gateway", keys.gateway))
        ips.append(ip)
    return ips


def _with_prefix_length(requested: Sequence[Requested]) -> list[dict[str, Any]]:
    ips = []
    for each in requested:
        prefix = parse_prefix(each.text)
        if prefix is None:
            raise each.wrong("an address with prefix length")
        ips.append({"address": str(prefix)})
    return ips


def _set_gateways(ips: list[dict[str, Any]], gateways: str) -> None:
    for text in filter(None, map(str.strip, gateways.split(","))):
        gateway = parse_ip(text)
        if gateway is None:
            raise Error(Kind.INVALID_REQUEST, where="CNI_ARGS GATEWAY", expected="an IP address", got=text)
        for ip in ips:
            if gateway in (parse_prefix(ip["address"]) or ()):
                ip.setdefault("gateway", str(gateway))
