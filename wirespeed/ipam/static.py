"""static: the addresses that the configuration or the runtime names, in this process."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from wirespeed import structs
from wirespeed.cni.address import Prefix, parse_ip, parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.ipam import conf
from wirespeed.structs import Cell, Words


class AddressKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of an element of `addresses`."""

    address: str | None = None
    gateway: Any = None


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `ipam` of type static; null is the same as no key."""

    type: Annotated[Any, Words("any value", "`static`")] = None
    addresses: Annotated[list[AddressKeys] | None, Cell("list of `address`, `gateway`")] = None
    """the addresses; if the pod requests addresses (capability `ips`), those replace them"""
    routes: conf.Routes | None = None
    """returned with the addresses, unchanged"""
    dns: dict[str, Any] | None = None
    """the same"""


KEYS = structs.keys_of(Keys)


def add(request: Request) -> Result:
    """Return the addresses to use, with the routes and DNS of the configuration.

    As in the reference plugin, the addresses are runtimeConfig.ips, else args.cni.ips, else those of `addresses`
    together with those of CNI_ARGS IP. In this last case, each address without a gateway gets the one of CNI_ARGS
    GATEWAY that is in its network.
    Raises CniError(INVALID_CONFIG, INVALID_ENVIRONMENT) that names the key.
    """
    ipam = conf.canonical(request.config["ipam"], KEYS, f"network {request.name}: ipam")
    configured = _configured(ipam.get("addresses"))
    asked = conf.requested(request)
    for source in ("runtimeConfig.ips", "args.cni.ips"):
        if asked.get(source):
            ips = _prefixed(source, asked[source])
            break
    else:
        ips = configured + _prefixed("CNI_ARGS IP", asked.get("CNI_ARGS IP", []))
        _set_gateways(ips, request.args.get("GATEWAY", ""))
    return {
        "ips": ips,
        "routes": conf.routes(ipam),
        "dns": conf.dns(ipam),
    }


def _configured(value: object) -> list[dict[str, Any]]:
    ips = []
    for index, raw in enumerate(conf.objects("ipam.addresses", value)):
        where = f"ipam.addresses[{index}]"
        fields = conf.canonical(raw, structs.keys_of(AddressKeys), where)
        prefix = parse_prefix(fields.get("address"))
        if prefix is None:
            raise structs.wrong(f"{where}.address", "an address with prefix length", fields.get("address"))
        ip = {"address": str(prefix)}
        if fields.get("gateway"):
            ip["gateway"] = str(conf.address(f"{where}.gateway", fields["gateway"]))
        ips.append(ip)
    return ips


def _prefixed(source: str, texts: list[str]) -> list[dict[str, Any]]:
    ips = []
    for text in texts:
        prefix = parse_prefix(text)
        if prefix is None:
            code = Code.INVALID_ENVIRONMENT if source.startswith("CNI_ARGS") else Code.INVALID_CONFIG
            raise CniError(code, f"{source}: expected an address with prefix length, got {text!r}")
        ips.append({"address": str(prefix)})
    return ips


def _set_gateways(ips: list[dict[str, Any]], gateways: str) -> None:
    for text in filter(None, map(str.strip, gateways.split(","))):
        gateway = parse_ip(text)
        if gateway is None:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS GATEWAY: expected an IP address, got {text!r}")
        for ip in ips:
            network: Prefix | None = parse_prefix(ip["address"])
            if network is not None and gateway in network:
                ip.setdefault("gateway", str(gateway))
