"""Parses the pod annotation k8s.v1.cni.cncf.io/networks in its short form and its JSON form.

All values are validated. Keys are read as Multus reads them: case-insensitive, and an unknown key has no effect
(the caller reports it). The annotation v1.multus-cni.io/default-network, which replaces the master, has the same
forms.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from wirespeed.cni.address import octets, unicast_mac
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import in_any_case, unknown_key
from wirespeed.devices import functions

NETWORKS = "k8s.v1.cni.cncf.io/networks"
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)  # RFC 1123 label
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")  # RFC 1123 subdomain
# Stricter than the kernel: no "%" (a name template), no ":" (an alias), no characters that are special in a shell.
_IFNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_GUID = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){7}")
_PROTOCOLS = ("tcp", "udp", "sctp")
# Keys of the nested objects, by the element's key.
_INNER = {
    "portMappings": ("hostPort", "containerPort", "protocol", "hostIP"),
    "bandwidth": ("ingressRate", "ingressBurst", "egressRate", "egressBurst"),
}
_MEANT = {"gateway": "default-route"}  # keys found in other documentation -> the key that has this effect


@dataclass(frozen=True, kw_only=True)
class Selection:
    """One network that a pod selects, with its requested values; those not requested are empty or None.

    `bandwidth` is in bit/s (rates) and bit (bursts), as the bandwidth plugin takes it. `default_route` is None if
    the key is missing; an empty list has a meaning of its own. `ignored` has one message for each part of the
    element that has no effect. `ipam_claim` names an IPAMClaim: the network's plugin (e.g. OVN-Kubernetes) reads it
    from the pod's annotation itself, and plugins without claims ignore it (multi-net-spec v1.3, 4.1.2.1.11).
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
    cni_args: dict[str, Any] = field(default_factory=dict)
    default_route: tuple[str, ...] | None = None
    ipam_claim: str = ""
    ignored: tuple[str, ...] = ()

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
    """Parse the annotation v1.multus-cni.io/default-network; return its one network, or None if it is empty.

    `namespace` is the default namespace of the network. Raises CniError(INVALID_CONFIG).
    """
    found = parse(text, namespace=namespace, annotation=DEFAULT_NETWORK)
    if len(found) > 1:
        raise CniError(Code.INVALID_CONFIG, f"annotation {DEFAULT_NETWORK}: expected one network, got {len(found)}")
    return found[0] if found else None


def parse(text: object, *, namespace: str, annotation: str = NETWORKS) -> list[Selection]:
    """Parse the annotation; return its networks in order. `namespace` is the pod's.

    If the text contains any of [ { " it is parsed as JSON. Raises CniError(INVALID_CONFIG) that names the element
    and key: one invalid value makes the whole annotation invalid (multi-net-spec v1.3, 4.1.2.1). An unknown key is
    no error; it is listed in Selection.ignored.
    """
    where = f"annotation {annotation}"
    if not isinstance(text, str):
        raise _wrong(where, "a string", text)
    if not text.strip():
        return []
    try:
        if any(mark in text for mark in '[{"'):
            return [
                replace(each, ignored=tuple(f"{where}: {line}" for line in each.ignored))
                for each in _json(text, namespace)
            ]
        return [_short(item, number, namespace) for number, item in enumerate(text.split(","), start=1)]
    except CniError as error:
        raise error.prefixed(where) from None


def check_namespace(value: object, where: str) -> str:
    """Return the value if it is an RFC 1123 label. Raises CniError(INVALID_CONFIG)."""
    if not isinstance(value, str) or len(value) > 63 or not _NAMESPACE.fullmatch(value):
        raise _wrong(where, "a namespace (lower-case letters, digits, -, at most 63)", value)
    return value


def check_name(value: object, where: str) -> str:
    """Return the value if it is an RFC 1123 subdomain. Raises CniError(INVALID_CONFIG)."""
    if not isinstance(value, str) or len(value) > 253 or not _NAME.fullmatch(value):
        raise _wrong(where, "an object's name (lower-case letters, digits, - and ., at most 253)", value)
    return value


def _wrong(where: str, expected: str, got: object) -> CniError:
    shown = repr(got)
    return CniError(
        Code.INVALID_CONFIG,
        f"{where}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}",
    )


def _short(item: str, number: int, namespace: str) -> Selection:
    """Parse one element of the short form: [<namespace>/]<name>[@<interface>]."""
    where = f"element {number}"
    network, _, interface = (part.strip() for part in item.partition("@"))
    space, _, name = (part.strip() for part in network.rpartition("/"))
    if not network or "/" in space or "@" in interface:
        raise _wrong(where, "[<namespace>/]<name>[@<interface>]", item.strip())
    return Selection(
        namespace=check_namespace(space, f"{where}: namespace") if space else namespace,
        name=check_name(name, f"{where}: name"),
        interface=_interface(interface, f"{where}: interface") if interface else "",
    )


def _json(text: str, namespace: str) -> list[Selection]:
    try:
        elements = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CniError(Code.INVALID_CONFIG, f"not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(elements, list):
        raise _wrong("the JSON form", "a list of objects", elements)
    return [_element(value, f"element {number}", namespace) for number, value in enumerate(elements, start=1)]


def _element(value: object, where: str, namespace: str) -> Selection:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    # null means "not given" for every key, as in Go's decoder (Multus).
    asked = {key: entry for key, entry in canonical(value).items() if entry is not None}
    if "name" not in asked:
        raise CniError(Code.INVALID_CONFIG, f'{where}: key "name" is missing')
    name = check_name(asked.pop("name"), f'{where}: key "name"')
    given = asked.pop("namespace", "")
    space = check_namespace(namespace if given == "" else given, f'{where} ({name}): key "namespace"')
    where = f"{where} ({space}/{name})"
    ignored = _ignored(asked, where)
    found: dict[str, Any] = {}
    for key in (key for key in _KEYS if key in asked):
        target, check = _KEYS[key]
        if asked[key] == "" and key in _MAY_BE_EMPTY:
            continue
        read = check(asked[key], f'{where}: key "{key}"')
        if found.setdefault(target, read) != read:
            ignored.append(f'{where}: key "{key}" has no effect beside "{target}"')
    return Selection(namespace=space, name=name, ignored=tuple(ignored), **found)


def canonical(element: dict[str, Any]) -> dict[str, Any]:
    """Return the element with all keys, also those of nested objects, spelled as in KEYS (matched in any case)."""
    found = in_any_case(element, KEYS)
    for key, known in _INNER.items():
        inner = found.get(key)
        if isinstance(inner, dict):
            found[key] = in_any_case(inner, known)
        elif isinstance(inner, list):
            found[key] = [in_any_case(each, known) if isinstance(each, dict) else each for each in inner]
    return found


def _ignored(element: dict[str, Any], where: str) -> list[str]:
    """Return a message for each unknown key."""
    told = [f"{where}: {_unknown(key, KEYS)}" for key in element if key not in KEYS]
    for key, known in _INNER.items():
        inner = element.get(key)
        for number, each in enumerate(inner if isinstance(inner, list) else [inner], start=1):
            here = f'{where}: key "{key}"' + (f", mapping {number}" if isinstance(inner, list) else "")
            if isinstance(each, dict):
                told += [f"{here}: {_unknown(one, known)}" for one in each if one not in known]
    return told


def _unknown(key: str, known: tuple[str, ...]) -> str:
    plain = unknown_key(key, ())
    meant = _MEANT.get(key.casefold())
    said = f'{plain}; nearest known key: "{meant}"' if meant in known else unknown_key(key, known)
    if said == plain:
        said += f"; known are {', '.join(known)}"
    return f"{said}; it has no effect"


def _interface(value: object, where: str) -> str:
    if not isinstance(value, str) or not _IFNAME.fullmatch(value) or value == "lo":
        raise _wrong(where, "an interface name (1 to 15 letters, digits, _ . -, not lo)", value)
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def _ips(value: object, where: str) -> tuple[str, ...]:
    found = [_ip(entry, where) for entry in _list(value, where)]
    addresses = [entry.partition("/")[0] for entry in found]
    for address in addresses:
        if addresses.count(address) > 1:
            raise CniError(Code.INVALID_CONFIG, f"{where}: {address} is there twice")
    return tuple(found)


def _ip(value: object, where: str) -> str:
    expected = "IP addresses of hosts, each with or without a prefix length (10.0.0.2/24)"
    if not isinstance(value, str) or "%" in value:
        raise _wrong(where, expected, value)
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        raise _wrong(where, expected, value) from None
    _, slash, prefix = value.partition("/")
    if interface.ip.is_unspecified or interface.ip.is_multicast or (slash and not prefix.isascii()):
        raise _wrong(where, expected, value)
    if slash and not prefix.isdigit():  # a netmask
        raise _wrong(where, expected, value)
    return f"{interface.ip}/{interface.network.prefixlen}" if slash else str(interface.ip)


def _gateways(value: object, where: str) -> tuple[str, ...]:
    found = []
    for entry in _list(value, where):
        address = _ip(entry, where)
        if "/" in address:
            raise _wrong(where, "a list of IP addresses without prefix length", entry)
        found.append(address)
    return tuple(found)


def _mac(value: object, where: str) -> str:
    text = unicast_mac(value)
    if not text:
        raise _wrong(where, "a unicast MAC address like 02:00:00:00:00:01", value)
    return text


def _guid(value: object, where: str) -> str:
    text = octets(value)
    if not _GUID.fullmatch(text) or set(text) <= {"0", ":"}:
        raise _wrong(where, "an 8-byte GUID like 02:00:00:00:00:00:00:01", value)
    return text


def _device(value: object, where: str) -> str:
    name = functions.canonical(value)
    if not name:
        raise _wrong(where, functions.EXPECTED, value)
    return name


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(where, f"an integer from {low} to {high}", value)
    return value


def _given(value: object, where: str, key: str) -> dict[str, Any]:
    """Return the known keys of the object `value` (under `key` of the element), without those that are null."""
    return {
        name: entry for name, entry in _object(value, where).items() if name in _INNER[key] and entry is not None
    }


def _ports(value: object, where: str) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(_list(value, where), start=1):
        mapping = _port(entry, f"{where}, mapping {number}")
        same = [m for m in found if all(m.get(k) == mapping.get(k) for k in ("hostPort", "protocol", "hostIP"))]
        if same:
            port = f"{mapping['hostPort']}/{mapping['protocol']}"
            raise CniError(Code.INVALID_CONFIG, f"{where}: host port {port} is mapped twice")
        found.append(mapping)
    return tuple(found)


def _port(value: object, where: str) -> dict[str, Any]:
    given = _given(value, where, "portMappings")
    protocol = given.get("protocol") or "tcp"
    if not isinstance(protocol, str) or protocol.lower() not in _PROTOCOLS:
        raise _wrong(f'{where}: key "protocol"', "tcp, udp or sctp", protocol)
    mapping: dict[str, Any] = {"protocol": protocol.lower()}
    for key in ("hostPort", "containerPort"):
        if key not in given:
            raise CniError(Code.INVALID_CONFIG, f'{where}: key "{key}" is missing')
        mapping[key] = _integer(given[key], f'{where}: key "{key}"', 1, 65535)
    if given.get("hostIP"):
        mapping["hostIP"] = _host_ip(given["hostIP"], f'{where}: key "hostIP"')
    return mapping


def _host_ip(value: object, where: str) -> str:
    try:
        if isinstance(value, str) and "%" not in value:
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise _wrong(where, "an IP address", value)


def _bandwidth(value: object, where: str) -> dict[str, int]:
    given = _given(value, where, "bandwidth")
    return {key: _integer(entry, f'{where}, "{key}"', 0, 2**63 - 1) for key, entry in given.items()}


def _claim(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "the name of an IPAMClaim", value)
    return value


# JSON key -> field of Selection and its check function.
_KEYS: dict[str, tuple[str, Callable[[object, str], Any]]] = {
    "interface": ("interface", _interface),
    "interfaceRequest": ("interface", _interface),  # the former name of the key
    "ips": ("ips", _ips),
    "mac": ("mac", _mac),
    "infiniband-guid": ("infiniband_guid", _guid),
    "portMappings": ("port_mappings", _ports),
    "bandwidth": ("bandwidth", _bandwidth),
    "deviceID": ("device_id", _device),
    "cni-args": ("cni_args", _object),
    "default-route": ("default_route", _gateways),
    "ipam-claim-reference": ("ipam_claim", _claim),
}
KEYS = ("name", "namespace", *_KEYS)
# Keys whose empty string means "not given", as in Multus.
_MAY_BE_EMPTY = frozenset(_KEYS) - {"ips", "portMappings", "bandwidth", "cni-args", "default-route"}
