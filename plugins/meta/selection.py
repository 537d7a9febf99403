"""Parses the pod annotation k8s.v1.cni.cncf.io/networks in its short form and its JSON form.

All values are validated. Keys are read as Multus reads them: case-insensitive, and an unknown key has no effect
(the caller reports it). The annotation v1.multus-cni.io/default-network, which replaces the master, is alike.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import UnicastMac, octets, read_mac
from wirespeed.devices import functions
from wirespeed.devices.functions import DeviceId
from wirespeed.errors import Element, Error, Kind, PathStep
from wirespeed.keys import did_you_mean, unknown_key
from wirespeed.structs import Cell, Words, whole

NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
# RFC 1123 label; "" is none.
_Namespace = Annotated[
    str,
    Meta(pattern=whole(f"({_LABEL})?"), max_length=63),
    Words("a namespace (lower-case letters, digits, -, at most 63)", "lower-case letters, digits, `-`"),
]
# RFC 1123 subdomain
_Name = Annotated[
    str,
    Meta(pattern=whole(rf"{_LABEL}(\.{_LABEL})*"), max_length=253),
    Words(
        "an object's name (lower-case letters, digits, - and ., at most 253)",
        "lower-case letters, digits, `-`, `.`",
    ),
]
# Stricter than the kernel: no "%" (a name template), no ":" (an alias), no characters that are special in a shell.
_Interface = Annotated[
    str,
    Meta(pattern=whole("((?!lo$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,14})?")),
    Words("an interface name (1 to 15 letters, digits, _ . -, not lo)", "1 to 15 letters, digits, `_`, `.`, `-`"),
]
_HostIp = Annotated[
    str,
    Words(
        "the IP address of a host, with or without a prefix length (10.0.0.2/24)",
        "addresses, with or without prefix length",
    ),
]
_Gateway = Annotated[str, Words("the IP address of a host, without a prefix length", "addresses")]
_Ip = Annotated[str, Words("an IP address", "address")]
# In the notations that `octets` reads; "" is none.
_Guid = Annotated[
    str,
    Meta(pattern=whole(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){7}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){3}|")),
    Words("an 8-byte GUID like 02:00:00:00:00:00:00:01", "8 bytes"),
]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_Protocol = Annotated[
    str,
    Meta(pattern=whole("[tT][cC][pP]|[uU][dD][pP]|[sS][cC][tT][pP]|")),
    Words("tcp, udp or sctp", "`tcp`, `udp`, `sctp`"),
]
_Rate = Annotated[int, Meta(ge=0, le=2**63 - 1), Words(f"an integer from 0 to {2**63 - 1}", "bit/s")]
_Burst = Annotated[int, Meta(ge=0, le=2**63 - 1), Words(f"an integer from 0 to {2**63 - 1}", "bit")]
_Claim = Annotated[str, Words("the name of an IPAMClaim", "name of an IPAMClaim")]


class PortMappingKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of an element of `portMappings`."""

    host_port: _Port = msgspec.field(name="hostPort")
    """required: the port of the host"""
    container_port: _Port = msgspec.field(name="containerPort")
    """required: the port of the pod"""
    protocol: _Protocol | None = None
    """default: `tcp`"""
    host_ip: _Ip | None = msgspec.field(name="hostIP", default=None)
    """the host's address; default: all of its addresses"""


class BandwidthKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `bandwidth`, from the pod's point of view, as in the reference plugin "bandwidth"."""

    ingress_rate: _Rate | None = None
    """what the pod receives"""
    ingress_burst: _Burst | None = None
    """how much it may receive at once above that rate"""
    egress_rate: _Rate | None = None
    """what the pod sends"""
    egress_burst: _Burst | None = None
    """how much it may send at once above that rate"""


@structs.prepared
class NetworkKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of an element of the JSON form; null is the same as no key."""

    name: _Name
    """required: the name of the NetworkAttachmentDefinition"""
    namespace: _Namespace | None = None
    """its namespace; default: the pod's"""
    interface: _Interface | None = None
    """the interface's name in the pod; default: net1, net2 ... by the position among the pod's networks, of which
    the `defaultNetworks` come first"""
    interface_request: _Interface | None = msgspec.field(name="interfaceRequest", default=None)
    """the earlier name of the key `interface`"""
    ips: list[_HostIp] | None = None
    """addresses for the network's IPAM (capability `ips`)"""
    mac: UnicastMac | None = None
    """the interface's MAC address (capability `mac`)"""
    guid: _Guid | None = msgspec.field(name="infiniband-guid", default=None)
    """the interface's GUID (capability `infinibandGUID`)"""
    port_mappings: Annotated[list[PortMappingKeys] | None, Cell("list of objects, see below")] = msgspec.field(
        name="portMappings", default=None
    )
    """ports of the host that lead to the pod (capability `portMappings`)"""
    bandwidth: Annotated[BandwidthKeys | None, Cell("object, see below")] = None
    """rate limits (capability `bandwidth`)"""
    device: DeviceId | None = msgspec.field(name="deviceID", default=None)
    """which one of the pod's devices to attach"""
    cni_args: dict[str, Any] | None = msgspec.field(name="cni-args", default=None)
    """added to `args.cni` of each plugin of the network"""
    default_route: list[_Gateway] | None = msgspec.field(name="default-route", default=None)
    """gateways of the pod's default routes, which then use this interface. An empty list keeps the default routes
    that this network's plugins create, and removes those of other networks"""
    ipam_claim: _Claim | None = msgspec.field(name="ipam-claim-reference", default=None)
    """accepted, but not passed on: the network's plugin reads it from the pod's annotation itself (OVN-Kubernetes
    does)"""  # multi-net-spec v1.3, 4.1.2.1.11


KEYS = structs.keys_of(NetworkKeys)
_REPLACEMENTS = {"gateway": "default-route"}  # keys that other projects' documentation has -> our key


@structs.prepared
class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """One network that a pod selects, with its requested values; those not requested are empty or None.

    `bandwidth` is in bit/s (rates) and bit (bursts), as the bandwidth plugin takes it. `default_route` is None if
    the key is missing; an empty list keeps the routes that the plugins create. `ignored` has one error for each
    part of the element that has no effect.
    """

    namespace: str
    name: str
    interface: str = ""
    ips: tuple[str, ...] = ()
    mac: str = ""
    infiniband_guid: str = ""
    port_mappings: tuple[dict[str, Any], ...] = ()
    bandwidth: dict[str, int] | None = None
    device_id: str = ""
    cni_args: dict[str, Any] = {}
    default_route: tuple[str, ...] | None = None
    ignored: tuple[Error, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    def runtime_config(self) -> dict[str, Any]:
        """The requested values by capability, as in runtimeConfig."""
        asked = {
            "ips": list(self.ips),
            "mac": self.mac,
            "infinibandGUID": self.infiniband_guid,
            "portMappings": list(self.port_mappings),
            "bandwidth": self.bandwidth,
        }
        return {capability: value for capability, value in asked.items() if value}


def parse_default(text: object, *, namespace: str) -> Selection | None:
    """Return the network of v1.multus-cni.io/default-network, None if it is empty. Raises Error(INVALID_CONFIG)."""
    found = parse(text, namespace=namespace, annotation=DEFAULT_NETWORK)
    if len(found) > 1:
        raise _wrong("one network", len(found)).within(f"annotation {DEFAULT_NETWORK}")
    return found[0] if found else None


def parse(text: object, *, namespace: str, annotation: str = NETWORKS) -> list[Selection]:
    """Parse the annotation; return its networks in order. `namespace` is the pod's.

    If the text contains any of [ { " it is parsed as JSON. Raises Error(INVALID_CONFIG) about a key, whose path
    begins with the Element: one invalid value makes the whole annotation invalid (multi-net-spec v1.3, 4.1.2.1). An
    unknown key is no error; it is listed in Selection.ignored.
    """
    where = f"annotation {annotation}"
    try:
        if not isinstance(text, str):
            raise _wrong("a string", text)
        if not text.strip():
            return []
        if any(mark in text for mark in '[{"'):
            return [_element(value, index, namespace, where) for index, value in enumerate(_json(text))]
        return [_short(item, index, namespace) for index, item in enumerate(text.split(","))]
    except Error as error:
        raise error.within(where) from None


def check_namespace(value: object) -> str:
    """Return the value if it is an RFC 1123 label. Raises Error(INVALID_CONFIG)."""
    if not isinstance(value, str) or not value or not structs.fits(value, _Namespace):
        raise _wrong(structs.expected(_Namespace), value)
    return value


def check_name(value: object) -> str:
    """Return the value if it is an RFC 1123 subdomain. Raises Error(INVALID_CONFIG)."""
    if not isinstance(value, str) or not structs.fits(value, _Name):
        raise _wrong(structs.expected(_Name), value)
    return value


def canonical(element: dict[str, Any]) -> dict[str, Any]:
    """Return the element with its known keys, also those of nested objects, as NetworkKeys declares them."""
    return structs.normalize_keys(element, NetworkKeys, lambda *_: None)


def _wrong(expected: str, got: object) -> Error:
    return Error(Kind.INVALID_CONFIG, expected=expected, got=got)


def _short(item: str, index: int, namespace: str) -> Selection:
    """Parse one element of the short form: [<namespace>/]<name>[@<interface>]."""
    network, _, interface = (part.strip() for part in item.partition("@"))
    space, _, name = (part.strip() for part in network.rpartition("/"))
    try:
        if not network or "/" in space or "@" in interface:
            raise _wrong("[<namespace>/]<name>[@<interface>]", item.strip())
        given = {"namespace": space, "name": name, "interface": interface}
        return _selection({key: value for key, value in given.items() if value or key == "name"}, namespace)
    except Error as error:
        raise error.under(Element(index)) from None


def _json(text: str) -> list[Any]:
    try:
        elements = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(elements, list):
        raise _wrong("a list of objects", elements).within("the JSON form")
    return elements


def _element(value: object, index: int, namespace: str, where: str) -> Selection:
    if not isinstance(value, dict):
        raise _wrong("an object", value).under(Element(index))
    ignored: list[Error] = []
    given = structs.normalize_keys(value, NetworkKeys, lambda path, known: ignored.append(_unknown(path, known)))
    try:
        found = _selection(given, namespace)
    except Error as error:
        raise error.under(Element(index, _label(given, namespace))) from None
    if given.get("interfaceRequest") not in (None, "", found.interface):
        ignored.append(Error(Kind.UNSUPPORTED, 'it has no effect beside "interface"', key="interfaceRequest"))
    element = Element(index, found.label)
    if not ignored:
        return found
    return msgspec.structs.replace(found, ignored=tuple(each.under(element).within(where) for each in ignored))


def _label(given: dict[str, Any], namespace: str) -> str:
    """Return namespace and name of an element as far as they are valid; "" without a valid name."""
    name, space = given.get("name"), given.get("namespace") or namespace
    if not structs.fits(name, _Name):
        return ""
    return f"{space}/{name}" if structs.fits(space, _Namespace) else str(name)


def _unknown(path: tuple[PathStep, ...], known: tuple[str, ...]) -> Error:
    error = unknown_key(path[-1], known, within=path[:-1], what="it has no effect")
    meant = _REPLACEMENTS.get(str(path[-1]).casefold(), "")
    hint = did_you_mean(meant) if meant in known else f"known are {', '.join(known)}"
    return error if error.hint else error.with_hint(hint)


def _selection(given: dict[str, Any], namespace: str) -> Selection:
    """Read an element whose keys are spelled as NetworkKeys declares them."""
    keys = structs.read(given, NetworkKeys)
    return Selection(
        namespace=keys.namespace or namespace,
        name=keys.name,
        interface=keys.interface or keys.interface_request or "",
        ips=_ips(keys.ips) if keys.ips else (),
        mac=read_mac(keys.mac),
        infiniband_guid=_guid(keys.guid) if keys.guid else "",
        port_mappings=_ports(keys.port_mappings) if keys.port_mappings else (),
        bandwidth=given.get("bandwidth"),
        device_id=functions.canonical(keys.device),
        cni_args=keys.cni_args or {},
        default_route=None if keys.default_route is None else _gateways(keys.default_route),
    )


def _ips(texts: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}  # by the address without its prefix length
    for index, text in enumerate(texts):
        address = _host_address(text)
        if not address:
            raise structs.wrong(f"ips[{index}]", _HostIp, text)
        plain = address.partition("/")[0]
        if plain in found:
            raise Error(Kind.INVALID_CONFIG, f"{plain} is there twice", key="ips")
        found[plain] = address
    return tuple(found.values())


def _gateways(texts: Sequence[str]) -> tuple[str, ...]:
    found = tuple(map(_host_address, texts))
    for index, address in enumerate(found):
        if not address or "/" in address:
            raise structs.wrong(f"default-route[{index}]", _Gateway, texts[index])
    return found


def _host_address(text: str) -> str:
    """Return an address, with its prefix length if it has one, in its usual notation; "" if it is not a host's."""
    _, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):  # a zone, a netmask
        return ""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        return ""
    if interface.ip.is_unspecified or interface.ip.is_multicast:
        return ""
    return f"{interface.ip}/{interface.network.prefixlen}" if slash else str(interface.ip)


def _guid(text: str) -> str:
    found = octets(text)
    if set(found) <= {"0", ":"}:
        raise structs.wrong("infiniband-guid", _Guid, text)
    return found


def _ports(mappings: Sequence[PortMappingKeys]) -> tuple[dict[str, Any], ...]:
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for index, keys in enumerate(mappings):
        mapping: dict[str, Any] = {
            "protocol": (keys.protocol or "tcp").lower(),
            "hostPort": keys.host_port,
            "containerPort": keys.container_port,
        }
        if keys.host_ip:
            mapping["hostIP"] = _ip(f"portMappings[{index}].hostIP", keys.host_ip)
        place = (keys.host_port, mapping["protocol"], mapping.get("hostIP"))
        if place in found:
            text = f"host port {keys.host_port}/{mapping['protocol']} is mapped twice"
            raise Error(Kind.INVALID_CONFIG, text, key="portMappings")
        found[place] = mapping
    return tuple(found.values())


def _ip(key: str, text: str) -> str:
    try:
        if "%" not in text:
            return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    raise structs.wrong(key, _Ip, text)
