"""JSON Schemas of the configurations, from the Structs that declare their keys.

A schema is at least as permissive as its reader: what the schema rejects, the reader rejects. Rules that relate
several keys are not in the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from wirespeed import declared, structs
from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.ipam import hostlocal, static
from wirespeed.node import NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.meta.selection import NetworkKeys
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.vhost import conf as vhost_conf
from wirespeed.provision import policy

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: str) -> Schema:
    """Return the schema of one of KINDS."""
    title, make = KINDS[kind]
    return {"$schema": _DIALECT, "title": title, **make()}


def _any_case(text: str) -> str:
    """Return a pattern that matches the text in any case. JSON Schema patterns have no flag for that."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else f"\\{c}" if c in ".-/" else c for c in text)


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
    """An object inside a plugin's configuration under our own type. A key without details accepts any value."""
    properties = {key: _or_null((details or {}).get(key, {})) for key in keys}
    return {"type": "object", "properties": properties, **_no_others(keys)}


_NULL = {"type": "null"}


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


def _list_of(kind: type[msgspec.Struct]) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/$defs/{kind.__name__}"}}


def _device_plugin() -> Schema:
    return {
        "type": "object",
        "properties": {"resourceList": _or_null(_list_of(deviceplugin_config.PoolKeys))},
        "$defs": declared.schema(deviceplugin_config.PoolKeys),
    }


# For `wirespeed check --schema`: a title, and the function that creates the rest.
KINDS: Mapping[str, tuple[str, Callable[[], Schema]]] = {
    "agent": ("The agent's configuration", lambda: _ref(NodeConfig)),
    "meta": ("The meta-plugin's CNI configuration", _meta),
    "networks": (
        f"The annotation {selection.NETWORKS} in JSON",
        lambda: {**_list_of(NetworkKeys), "$defs": declared.schema(NetworkKeys)},
    ),
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
