"""Objects from which operators create networks and pods: the SR-IOV operator's networks, KubeVirt's VMs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.networks import NO_CONTEXT, Context, configuration, metadata_fault, repeated_key_findings
from wirespeed.cli.checks.places import Document, Place, UnreadableError, list_at, object_at, read_json, value_at
from wirespeed.errors import Error, Kind
from wirespeed.keys import unknown_key
from wirespeed.plugins.meta.networks import RESOURCE_NAME

# The operator's network kinds: the CNI plugin's type, and the plugin key for each key of the spec. Source: the
# operator's bindata/manifests/cni-config.
_KEYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "SriovNetwork": (
        "sriov",
        {
            "vlan": "vlan",
            "vlanQoS": "vlanQoS",
            "vlanProto": "vlanProto",
            "spoofChk": "spoofchk",
            "trust": "trust",
            "linkState": "link_state",
            "minTxRate": "min_tx_rate",
            "maxTxRate": "max_tx_rate",
            "logLevel": "logLevel",
            "logFile": "logFile",
        },
    ),
    "SriovIBNetwork": ("ib-sriov", {"linkState": "link_state"}),
    "OVSNetwork": (
        "ovs",
        {"bridge": "bridge", "vlan": "vlan", "mtu": "mtu", "trunk": "trunk", "interfaceType": "interface_type"},
    ),
}
NETWORKS = frozenset(_KEYS)
_COMMON_KEYS = ("networkNamespace", "resourceName", "capabilities", "ipam", "metaPlugins")
_GROUP = "sriovnetwork.openshift.io/"
_PREFIX = "openshift.io"  # of resource names; the operator's default
_VERSION = "1.0.0"  # the cniVersion that the operator writes

# Kinds that contain a virtual machine template, with the path to it.
MACHINES: Mapping[str, tuple[str, ...]] = {
    "VirtualMachineInstance": (),
    "VirtualMachine": ("spec", "template"),
    "VirtualMachineInstanceReplicaSet": ("spec", "template"),
    "VirtualMachinePool": ("spec", "virtualMachineTemplate", "spec", "template"),
}


def is_read(raw: dict[str, Any]) -> bool:
    """Return whether the object is of one of these kinds, of the right API group."""
    version = str(raw.get("apiVersion"))
    return (raw["kind"] in NETWORKS and version.startswith(_GROUP)) or (
        raw["kind"] in MACHINES and version.partition("/")[0].endswith("kubevirt.io")
    )


def network(document: Document, context: Context = NO_CONTEXT) -> Iterator[Finding]:
    """Check an operator's network: its spec, and the CNI configuration that the operator generates from it."""
    raw, place = document.value, document.place
    if fault := metadata_fault(raw, raw["kind"]):
        yield Finding.of(fault, place)
        return
    spec, where = raw.get("spec") or {}, place.at(("spec",))
    what = f"{raw['kind']} {raw['metadata']['name']}"
    _, keys = _KEYS[raw["kind"]]
    for key in spec:
        if key not in (*_COMMON_KEYS, *keys):
            error = unknown_key(key, (*_COMMON_KEYS, *keys), within=("spec",)).within(what)
            yield Finding(where.at((key,)).line, error=True, text=error.msg)
    if not spec.get("resourceName"):
        missing = Error(Kind.INVALID_CONFIG, where=what, key="spec.resourceName", missing=True)
        yield Finding(where.line, error=True, text=missing.msg)
    generated, found = _generate(raw, place)
    yield from found
    context = replace(context, name=raw["metadata"]["name"], version=_VERSION, device=True)
    yield from configuration(generated, context)


def definition(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the NetworkAttachmentDefinition that the operator creates for its network."""
    spec = raw.get("spec") or {}
    generated, _ = _generate(raw, Place(1))
    namespace = spec.get("networkNamespace") or raw["metadata"].get("namespace") or "default"
    resource = {RESOURCE_NAME: f"{_PREFIX}/{spec['resourceName']}"} if spec.get("resourceName") else {}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": raw["metadata"]["name"], "namespace": namespace, "annotations": resource},
        "spec": {"config": json.dumps({"cniVersion": _VERSION, **generated.value})},
    }


def _generate(raw: dict[str, Any], place: Place) -> tuple[Document, list[Finding]]:
    """Return the generated configuration, whose places are those of the spec's keys, and findings for bad keys."""
    kind, keys = _KEYS[raw["kind"]]
    spec, where = raw.get("spec") or {}, place.at(("spec",))
    plugin: dict[str, Any] = {"type": kind}
    found: list[Finding] = []
    inside = Place(where.line)
    for key, name in keys.items():
        if spec.get(key) not in (None, ""):
            plugin[name] = spec[key]
            inside.parts[name] = where.at((key,))
    for key in ("capabilities", "ipam"):
        part, problems = _json_value(spec, key, where)
        found += problems
        if part is not None:
            plugin[key] = part.value
            inside.parts[key] = part.place
    more, problems = _json_value(spec, "metaPlugins", where, "[", "]")
    found += problems
    if more is None or not isinstance(more.value, list):
        return Document(plugin, inside), found
    plugins = Place(where.line, {0: inside, **{index + 1: each for index, each in _parts(more)}})
    return Document({"plugins": [plugin, *more.value]}, Place(where.line, {"plugins": plugins})), found


def _parts(document: Document) -> list[tuple[int, Place]]:
    return [(step, part) for step, part in document.place.parts.items() if isinstance(step, int)]


def _json_value(
    spec: Mapping[str, Any], key: str, where: Place, before: str = "", after: str = ""
) -> tuple[Document | None, list[Finding]]:
    """Parse the JSON in a key's string, put between `before` and `after`; None if it is missing or unreadable."""
    text, place = spec.get(key), where.at((key,))
    if text is None or (isinstance(text, str) and not text.strip()):
        return None, []
    if not isinstance(text, str):
        problem = f"spec.{key}: expected a string with JSON, got {type(text).__name__}"
        return None, [Finding(place.line, error=True, text=problem)]
    try:
        document = read_json(
            f"{before}{text}{after}", lambda offset: place.lines(min(max(offset - len(before), 0), len(text)))
        )
    except UnreadableError as error:
        return None, [Finding(error.line, error=True, text=f"spec.{key}: {error}")]
    return document, list(repeated_key_findings(document))


def machine(document: Document) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Place]], Place]:
    """Describe the pod that KubeVirt creates for a virtual machine.

    Returns the pod's metadata; the machine's networks, each an element of the networks annotation with its place;
    and the place of the metadata.
    """
    raw, place = document.value, document.place
    steps = MACHINES[raw["kind"]]
    elements = []
    for index, each in enumerate(list_at(raw, *steps, "spec", "networks")):
        name = value_at(each, "multus", "networkName")
        if isinstance(name, str):
            where = place.at((*steps, "spec", "networks", index, "multus", "networkName"))
            namespace, _, name = name.rpartition("/")
            elements.append(({"name": name, **({"namespace": namespace} if namespace else {})}, where))
    named = {key: (raw.get("metadata") or {}).get(key) for key in ("name", "generateName", "namespace")}
    return {**object_at(raw, *steps, "metadata"), **named}, elements, place.at((*steps, "metadata"))
