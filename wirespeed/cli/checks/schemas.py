"""JSON Schemas of the configurations, from the Structs and key tables that their readers use.

A schema is at least as permissive as its reader: what the schema rejects, the reader rejects. Rules that relate
several keys are not in the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from wirespeed import declared, structs
from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.devices import functions
from wirespeed.ipam import hostlocal, static
from wirespeed.node import NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.vhost import conf as vhost_conf
from wirespeed.provision import policy

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: str) -> Schema:
    """Return the schema of one of KINDS."""
    title, make = KINDS[kind]
    return {"$schema": _DIALECT, "title": title, **make()}


def _text(pattern: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"pattern": f"^(?:{pattern})$"} if pattern else {}), **more}


def _number(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _any_case(text: str) -> str:
    """Return a pattern that matches the text in any case. JSON Schema patterns have no flag for that."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else f"\\{c}" if c in ".-/" else c for c in text)


def _object(keys: Iterable[str], details: Mapping[str, Schema], **more: Any) -> Schema:
    """An object with these keys; null means "not given". A key without details accepts any value."""
    return {"type": "object", "properties": {key: _or_null(details.get(key, {})) for key in keys}, **more}


def _or_null(found: Schema) -> Schema:
    return {"anyOf": [found, _NULL]} if found else {}


def _ref(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": f"#/$defs/{kind.__name__}", "$defs": declared.schema(kind)}


def _own(plugin: str, kind: type[msgspec.Struct], others: Iterable[str], *, unknown: Schema | bool) -> Schema:
    """A plugin's configuration under our own type, declared by a Struct. `others` are keys it may have too."""
    found = declared.schema(kind)
    top = found.pop(kind.__name__)
    return {
        "type": "object",
        "properties": {**top["properties"], "type": {"const": plugin}},
        **_no_others((*top["properties"], *others), unknown=unknown),
        "$defs": found,
    }


def _no_others(keys: Iterable[str], *, unknown: Schema | bool = False) -> Schema:
    """Restrict an object to these keys, in any case."""
    names = "|".join(map(_any_case, keys))
    return {"patternProperties": {f"^(?:{names})$": {}}, "additionalProperties": unknown}


def _part(keys: Iterable[str], details: Mapping[str, Schema] | None = None) -> Schema:
    """An object inside a plugin's configuration under our own type."""
    return _object(keys, details or {}, **_no_others(keys))


_NULL = {"type": "null"}
_HEX = "[0-9a-fA-F]"
_PCI = _text(rf"{_HEX}{{4,8}}:{_HEX}{{2}}:[01]{_HEX}\.[0-7]")
_MAC = _text(rf"{_HEX}[02468aAcCeE](?:(?:[:-]{_HEX}{{2}}){{5}}|{_HEX}{{2}}(?:\.{_HEX}{{4}}){{2}})")
_NO_TEXT = {"const": ""}

_ADDRESSES = _list(_text())
_PORT = _object(
    ("hostPort", "containerPort", "protocol", "hostIP"),
    {
        "hostPort": _number(1, 65535),
        "containerPort": _number(1, 65535),
        "protocol": _text("|".join(map(_any_case, ("tcp", "udp", "sctp", "")))),
        "hostIP": _text(),
    },
    required=["hostPort", "containerPort"],
)
_RATES = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_IFNAME = {"anyOf": [_text("[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", **{"not": {"const": "lo"}}), _NO_TEXT]}
_ELEMENT: Mapping[str, Schema] = {
    "name": _text(rf"{_LABEL}(?:\.{_LABEL})*", maxLength=253),
    "namespace": {"anyOf": [_text(_LABEL, maxLength=63), _NO_TEXT]},
    "interface": _IFNAME,
    "interfaceRequest": _IFNAME,
    "ips": _ADDRESSES,
    "mac": {"anyOf": [_MAC, _text(rf"{_HEX}[02468aAcCeE]{_HEX}{{2}}(?:\.{_HEX}{{4}}){{2}}"), _NO_TEXT]},
    "infiniband-guid": {
        "anyOf": [
            _text(rf"{_HEX}{{2}}(?:[:-]{_HEX}{{2}}){{7}}"),
            _text(rf"{_HEX}{{4}}(?:\.{_HEX}{{4}}){{3}}"),
            _NO_TEXT,
        ]
    },
    "portMappings": _list(_PORT),
    "bandwidth": _object(_RATES, dict.fromkeys(_RATES, _number(0, 2**63 - 1))),
    "deviceID": {"anyOf": [_PCI, _text(functions.SCALABLE.pattern), _NO_TEXT]},
    "cni-args": {"type": "object"},
    "default-route": _ADDRESSES,
    "ipam-claim-reference": _text(),
}


def _meta() -> Schema:
    found = declared.schema(MetaConfig)["MetaConfig"]
    properties = {key: _or_null(value) for key, value in found["properties"].items()}
    others: dict[str, Schema] = {key: {} for key in sorted(meta_config.KNOWN - properties.keys())}
    type_ = {"type": {"const": meta_config.OWN_TYPE}}
    return {"type": "object", "properties": {**properties, **others, **type_}, "additionalProperties": False}


def _vhost() -> Schema:
    """Objects in it have no other keys either. In `container`, only keys are checked: most have no effect."""
    found = _own("wirespeed-vhost", vhost_conf.Keys, vhost_conf.OTHER_KEYS, unknown=_NULL)
    found["$defs"] = {name: {**part, **_no_others(part["properties"])} for name, part in found["$defs"].items()}
    parts = {key: _part(structs.keys_of(kind)) for key, kind in vhost_conf.PARTS.items()}
    container = _part(structs.keys_of(vhost_conf.SideKeys), parts)
    found["properties"]["container"] = {**found["properties"]["container"], **_or_null(container)}
    return found


def _networks() -> Schema:
    element = _object(selection.KEYS, _ELEMENT, required=["name"])  # unknown keys are ignored, so they are valid
    element["properties"]["name"] = _ELEMENT["name"]
    return _list(element)


def _device_plugin() -> Schema:
    return {
        "type": "object",
        "properties": {"resourceList": _or_null(_list({"$ref": "#/$defs/PoolKeys"}))},
        "$defs": declared.schema(deviceplugin_config.PoolKeys),
    }


# For `wirespeed check --schema`: a title, and the function that creates the rest.
KINDS: Mapping[str, tuple[str, Callable[[], Schema]]] = {
    "agent": ("The agent's configuration", lambda: _ref(NodeConfig)),
    "meta": ("The meta-plugin's CNI configuration", _meta),
    "networks": (f"The annotation {selection.NETWORKS} in JSON", _networks),
    "sriov": (
        "The SR-IOV plugin's CNI configuration",
        lambda: _own("wirespeed-sriov", sriov_conf.Keys, sriov_conf.OTHER_KEYS, unknown=False),
    ),
    "vhost": (
        "The vhost-user plugin's CNI configuration",
        _vhost,
    ),
    "host-local": ("The key ipam of type host-local", lambda: _ref(hostlocal.Keys)),
    "static": ("The key ipam of type static", lambda: _ref(static.Keys)),
    "device-plugin": ("The device plugin's configuration", _device_plugin),
    "node-policy": (f"The spec of a {policy.KIND}", lambda: _ref(policy.Spec)),
}
