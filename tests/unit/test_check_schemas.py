"""The JSON Schemas: whatever they reject, the configuration's reader rejects too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cli.check import SCHEMAS
from wirespeed.cli.checks.schemas import KINDS, schema
from wirespeed.cni.request import Request
from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.errors import Error
from wirespeed.ipam import hostlocal, static
from wirespeed.node import parse_config
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import selection
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.vhost import conf as vhost_conf
from wirespeed.provision import policy

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_SAID = {"$schema", "$defs", "title", "description", "default"}  # annotations, which do not validate


def fits(rules: Any, value: Any, root: Any) -> bool:
    """Whether the value matches a JSON Schema (the keywords of draft 2020-12 that are used here)."""
    if isinstance(rules, bool):
        return rules
    return all(_KEYWORDS[key](rule, value, rules, root) for key, rule in rules.items() if key not in _SAID)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _ref(rule: Any, value: Any, _: Any, root: Any) -> bool:
    return fits(root["$defs"][rule.removeprefix("#/$defs/")], value, root)


def _others(rule: Any, value: Any, rules: Any, root: Any) -> bool:
    known, patterns = rules.get("properties", {}), rules.get("patternProperties", {})
    return not isinstance(value, dict) or all(
        fits(rule, value[key], root)
        for key in value
        if key not in known and not any(re.search(pattern, key) for pattern in patterns)
    )


def _patterns(rule: Any, value: Any, _: Any, root: Any) -> bool:
    return not isinstance(value, dict) or all(
        fits(each, value[key], root) for pattern, each in rule.items() for key in value if re.search(pattern, key)
    )


def _of(kinds: type | tuple[type, ...], test: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    return lambda rule, value, _, __: not isinstance(value, kinds) or isinstance(value, bool) or test(rule, value)


def _properties(rule: Any, value: Any, _: Any, root: Any) -> bool:
    return not isinstance(value, dict) or all(fits(rule[key], value[key], root) for key in rule if key in value)


_KEYWORDS: dict[str, Callable[[Any, Any, Any, Any], bool]] = {
    "$ref": _ref,
    "type": lambda rule, value, _, __: any(
        _TYPES[each](value) for each in ([rule] if isinstance(rule, str) else rule)
    ),
    "anyOf": lambda rule, value, _, root: any(fits(each, value, root) for each in rule),
    "not": lambda rule, value, _, root: not fits(rule, value, root),
    "const": lambda rule, value, _, __: _same(rule, value),
    "enum": lambda rule, value, _, __: any(_same(each, value) for each in rule),
    "pattern": _of(str, lambda rule, value: re.search(rule, value) is not None),
    "minLength": _of(str, lambda rule, value: len(value) >= rule),
    "maxLength": _of(str, lambda rule, value: len(value) <= rule),
    "minimum": _of((int, float), lambda rule, value: value >= rule),
    "maximum": _of((int, float), lambda rule, value: value <= rule),
    "exclusiveMinimum": _of((int, float), lambda rule, value: value > rule),
    "maxProperties": _of(dict, lambda rule, value: len(value) <= rule),
    "minItems": _of(list, lambda rule, value: len(value) >= rule),
    "items": lambda rule, value, _, root: (
        not isinstance(value, list) or all(fits(rule, each, root) for each in value)
    ),
    "required": _of(dict, lambda rule, value: all(key in value for key in rule)),
    "properties": _properties,
    "additionalProperties": _others,
    "patternProperties": _patterns,
}


def _request(config: dict[str, Any]) -> Request:
    return Request(command="ADD", container_id="c", netns="/n", ifname="net1", config=config)


HEAD = {"cniVersion": "1.0.0", "name": "n"}


def _leases(request: Request) -> None:
    hostlocal.parse(request)
    hostlocal.folder(request, Path("/leases"))


# For each kind: an accepted configuration, and its reader.
READERS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "agent": ({"workers": 3}, lambda value: parse_config(yaml.safe_dump(value))),
    "meta": ({**HEAD, "type": "wirespeed", "clusterNetwork": "x"}, meta_config.load),
    "networks": ([{"name": "a"}], lambda value: selection.parse(json.dumps(value), namespace="default")),
    "sriov": (
        {**HEAD, "type": "wirespeed-sriov", "deviceID": "0000:01:00.0"},
        lambda value: sriov_conf.parse(_request(value), Path("/devinfo")),
    ),
    "vhost": (
        {**HEAD, "type": "wirespeed-vhost", "host": {"engine": "ovs-dpdk", "iftype": "vhostuser"}},
        lambda value: vhost_conf.parse(_request(value), Path("/devinfo")),
    ),
    "host-local": (
        {"type": "host-local", "subnet": "10.1.0.0/16"},
        lambda value: _leases(_request({**HEAD, "ipam": value})),
    ),
    "static": ({"type": "static", "addresses": []}, lambda value: static.add(_request({**HEAD, "ipam": value}))),
    "device-plugin": (
        {"resourceList": [{"resourceName": "a", "selectors": {}}]},
        lambda value: deviceplugin_config.parse(json.dumps(value).encode(), "intel.com"),
    ),
    "node-policy": (
        {"resourceName": "a", "nicSelector": {}, "numVfs": 4},
        lambda value: msgspec.convert(value, policy.Spec),
    ),
}


def refused(kind: str, value: Any) -> bool:
    try:
        READERS[kind][1](value)
    except (Error, msgspec.ValidationError):
        return True
    return False


def _objects(value: Any) -> list[dict[str, Any]]:
    """All objects in a configuration, outermost first."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for each in inside for found in _objects(each))]


TEXTS = (
    *(
        "",
        "on",
        "off",
        "ON",
        "auto",
        "enable",
        "lo",
        "net1",
        "eth0:1",
        "a-name-that-is-too-long",
        "default",
        "a.b",
        "a_b",
    ),
    *(
        "02:00:00:00:00:01",
        "02-00-00-00-00-0A",
        "03:00:00:00:00:01",
        "00:00:00:00:00:00",
        "02:00:00:00:00:00:00:01",
        "0200.0000.0001",
        "0200.0000.0000.000A",
    ),
    *(
        "0000:01:00.0",
        "0000:AF:1f.7",
        "0000:01:20.0",
        "10000:e1:00.0",
        "802.1q",
        "802.1AD",
        "802.1x",
        "tcp",
        "SCTP",
    ),
    *("10.0.0.1", "10.0.0.1/24", "fd00::1", "/a/b", "a/b", "0660", "660", "0x15B3", "15b3", "ether", "wirespeed"),
    *("vfio-pci", "netdevice", "ovs-dpdk", "vpp", "memif", "client"),
)
NUMBERS = (-1, 0, 1, 7, 8, 67, 68, 4094, 4095, 65535, 65536, 2**32 - 2, 2**32 - 1, 2**53, 2**63 - 1, 2**63)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.floats(0, 2)
    | st.sampled_from(TEXTS)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


def _known_keys(kind: str) -> list[str]:
    """All keys that occur anywhere in the schema of a kind."""
    found: set[str] = set()

    def walk(rules: Any) -> None:
        if isinstance(rules, dict):
            found.update(rules.get("properties", {}))
        for each in rules.values() if isinstance(rules, dict) else rules if isinstance(rules, list) else ():
            walk(each)

    walk(schema(kind))
    return sorted(found - {"type"})  # `type` selects the schema


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_a_schema_refuses_its_reader_refuses(kind: str, data: st.DataObject) -> None:
    value = json.loads(json.dumps(READERS[kind][0]))
    for _ in range(data.draw(st.integers(1, 2))):
        target = data.draw(st.sampled_from(_objects(value)))
        key = data.draw(st.sampled_from(_known_keys(kind)) | st.sampled_from(["VLAN", "unknown", "Host"]))
        target[key] = data.draw(VALUES | st.sampled_from([{}, []]))
    if not fits(schema(kind), value, schema(kind)):
        assert refused(kind, value), value


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_is_accepted_fits_its_schema(kind: str) -> None:
    value = READERS[kind][0]
    assert not refused(kind, value)
    assert fits(schema(kind), value, schema(kind))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("agent", {"wokers": 1}),
        ("agent", {"workers": 0}),
        ("agent", {"cluster": {"kubeconfg": ""}}),
        ("meta", {"type": "wirespeed", "clusterNetwrk": "x"}),
        ("meta", {"type": "wirespeed", "namespaceIsolation": "yes"}),
        ("networks", {"name": "a"}),
        ("networks", [{}]),
        ("networks", [{"name": "a", "mac": "03:00:00:00:00:01"}]),
        ("networks", [{"name": "a", "portMappings": [{"hostPort": 0, "containerPort": 1}]}]),
        ("networks", [{"name": "a", "interface": "lo"}]),
        ("sriov", {"vlan": 4095}),
        ("sriov", {"vlam": 1}),
        ("sriov", {"bridge": "br 0"}),
        ("sriov", {"trunk": [0]}),
        ("sriov", {"rss": {"queues": 0}}),
        ("sriov", {"spoofchk": True}),
        ("sriov", {"txQueueLen": 100_001}),
        ("vhost", {"mac": "x"}),
        ("vhost", {"hosst": {}}),
        ("vhost", {"host": {"queus": 2}}),
        ("vhost", {"host": {"memif": {"ringSize": 1 << 20}}}),
        ("host-local", {"subnet": 1}),
        ("static", {"addresses": [{"address": 1}]}),
        ("device-plugin", {"resourceList": {}}),
        ("device-plugin", {"resourceList": [{"selectors": {"vendors": ["80866"]}}]}),
        ("node-policy", {"resourceName": "a", "nicSelector": {"vendor": "x"}, "numVfs": 1}),
    ],
)
def test_schemas_refuse_mistakes(kind: str, value: Any) -> None:
    assert not fits(schema(kind), value, schema(kind))


def test_the_command_shows_every_schema() -> None:
    assert set(KINDS) == set(SCHEMAS)
    shown = subprocess.run(
        [sys.executable, "-m", "wirespeed", "check", "--schema", "sriov"],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(shown.stdout) == schema("sriov")
