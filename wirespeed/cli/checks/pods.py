"""Checks of pods' networks: the steps of an ADD before its first change, with the definitions in the files."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wirespeed.cli.checks import misplaced, operators, vfio
from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.networks import NAD, Definitions, metadata_fault, read_definition, repeated_key_findings
from wirespeed.cli.checks.places import Document, Place, UnreadableError, list_at, object_at, read_json, value_at
from wirespeed.cli.checks.problems import Repairs, examine
from wirespeed.cni import versions
from wirespeed.cni.chain import Chain, Network, load_network
from wirespeed.cni.request import Request
from wirespeed.errors import Element, Error, Kind, Thing
from wirespeed.keys import did_you_mean, similar
from wirespeed.node import Node
from wirespeed.play import manifests, quantity
from wirespeed.plugins.meta import checks, selection
from wirespeed.plugins.meta.config import Capability, MetaConfig, warn
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.plugins.meta.resolve import Pod, Resolver
from wirespeed.plugins.meta.selection import DEFAULT_NETWORK, NETWORKS

# Kinds that contain a pod, with the path to it.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "ReplicationController": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
# Kubernetes' own API groups. A Job of another group is a different kind.
_GROUPS = frozenset({"apps", "batch", "extensions"})
_REQUEST = Request(command="ADD", container_id="check", netns="/check", ifname="eth0")
_CONFIG = MetaConfig(name="check", cni_version=versions.LATEST, delegates=[{"name": "primary", "type": "primary"}])
_SPEC = Repairs(
    keys={"name": "unknown", "containers": [{"name": "unknown"}], "spec": {"containers": [{"name": "unknown"}]}},
    elements={
        "containers": {"name": "unknown"},
        "initContainers": {"name": "unknown"},
        "volumes": {"emptyDir": {}},
    },
)
_ELEMENTS = Repairs(keys={"name": "unknown"}, elements={"": {"name": "unknown"}})
_MANY = 100  # devices assumed of a resource whose number is unknown

T = TypeVar("T")
Findings = Generator[Finding, None, T]  # yields what is wrong, and returns what was read


class OfflineChain(Chain):
    def check_plugins(self, network: Network, path: Sequence[str]) -> None:
        """Do nothing: the executables are on other machines."""


class _PermissiveDefinitions(Definitions):
    """Definitions that include every network; a missing or invalid one accepts every capability."""

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        if found := self.known.get((namespace, name)):
            return found
        capabilities = dict.fromkeys(("ips", "mac", "infinibandGUID", "portMappings", "bandwidth"), True)
        config = {"cniVersion": versions.LATEST, "name": name, "type": "unknown", "capabilities": capabilities}
        return {"metadata": {"namespace": namespace, "name": name}, "spec": {"config": json.dumps(config)}}


@dataclass(frozen=True, kw_only=True)
class _RequestedNetwork:
    """A network that a pod requests: the element of the annotation, with errors repaired, and its place.

    `has_placeholder_name`: the element's name was invalid and has been replaced.
    """

    label: str
    element: dict[str, Any]
    place: Place
    has_placeholder_name: bool = False


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a pod, or each pod of a template, requests.

    `default` is the network that replaces the master, `devices` the number of devices per resource, `listed` the
    resources in the containers' limits and requests.
    """

    namespace: str
    name: str
    default: tuple[_RequestedNetwork, ...] = ()
    networks: tuple[_RequestedNetwork, ...] = ()
    devices: Mapping[str, int]
    listed: frozenset[str] = frozenset()

    @property
    def all(self) -> tuple[_RequestedNetwork, ...]:
        return *self.default, *self.networks


class Pods:
    """Checks pods against the definitions. `node` provides the built-in plugins.

    `on_vfio` has the resources whose devices are on vfio-pci; `lenient` the capabilities that the cluster accepts
    for networks that do not declare them.
    """

    def __init__(
        self,
        definitions: Definitions,
        node: Node,
        on_vfio: vfio.Resources,
        *,
        lenient: Sequence[Capability] = (),
    ) -> None:
        self._on_vfio = on_vfio
        self._config = msgspec.structs.replace(_CONFIG, lenient_capabilities=list(lenient))
        self._definitions = definitions
        self._permissive = _PermissiveDefinitions(
            {key: raw for key, raw in definitions.known.items() if _is_usable(raw)}
        )
        resources = {_resource(raw) for raw in self._permissive.known.values()}
        self._every_device = dict.fromkeys(resources, _MANY)
        self._chain = OfflineChain(node.plugins)

    def check(self, raw: dict[str, Any], place: Place) -> Iterator[Finding]:
        """Check the annotations and the spec of a pod, or of a workload's template."""
        kind, steps = raw["kind"], TEMPLATES[raw["kind"]]
        raw = _with_name(raw)
        yield from misplaced.keys(raw.get("metadata"), place.at(("metadata",)))
        if fault := metadata_fault(raw, kind):
            yield Finding.of(fault, place)
            return
        pod = object_at(raw, *steps)
        if steps:
            yield from _template_findings(raw, pod, steps, place)
            if not pod:
                return
        named = {key: raw["metadata"].get(key) for key in ("namespace", "name")}
        pod = {**pod, "metadata": {**object_at(pod, "metadata"), **named}}
        if fault := metadata_fault(pod, f"{kind}: {'.'.join(steps)}" if steps else kind):
            yield Finding.of(fault, place.at(steps))
            return
        yield from _spec(raw, pod, steps, place.at(steps))
        yield from self._pod(pod, place.at((*steps, "metadata", "annotations")))
        yield from vfio.findings(object_at(pod, "spec"), place.at((*steps, "spec")), self._on_vfio)

    def machine(self, document: Document) -> Iterator[Finding]:
        """Check the networks of a virtual machine. The pod that KubeVirt creates has all devices that they need."""
        metadata, elements, place = operators.machine(document)
        pod = _with_name({"metadata": metadata})
        yield from misplaced.keys(document.value.get("metadata"), document.place.at(("metadata",)))
        if steps := operators.MACHINES[document.value["kind"]]:
            yield from misplaced.keys(metadata, place, f"{'.'.join(steps)}.metadata")
        if fault := metadata_fault(pod, document.value["kind"]):
            yield Finding.of(fault, place)
            return
        namespace = pod["metadata"].get("namespace") or "default"
        wanted = _Wanted(namespace=namespace, name=pod["metadata"]["name"], devices=self._every_device)
        asked = []
        for element, where in elements:
            each = yield from _machines(element, namespace, where)
            if each is not None:
                asked.append((yield from self._check_alone(wanted, each)))
        yield from self._check_together(replace(wanted, networks=tuple(asked)), place)
        if not elements:  # otherwise KubeVirt overwrites the annotation
            claimed = {**pod, "spec": {"resourceClaims": [{}]}}
            yield from self._pod(claimed, place.at(("annotations",)))

    def _pod(self, pod: dict[str, Any], place: Place) -> Iterator[Finding]:
        metadata, spec = pod["metadata"], object_at(pod, "spec")
        namespace = metadata.get("namespace") or "default"
        devices = self._every_device if spec.get("resourceClaims") else _limits(spec, self._every_device)
        wanted = _Wanted(
            namespace=namespace, name=metadata["name"], devices=devices, listed=_listed_resources(spec)
        )
        asked: list[tuple[_RequestedNetwork, ...]] = []
        for annotation, space in ((DEFAULT_NETWORK, _CONFIG.multus_namespace), (NETWORKS, namespace)):
            text = value_at(metadata, "annotations", annotation) or ""
            elements = yield from _read(annotation, text, space, place.at((annotation,)))
            checked = []
            for each in elements:
                checked.append((yield from self._check_alone(wanted, each)))
            asked.append(tuple(checked))
        wanted = replace(wanted, default=asked[0], networks=asked[1])
        yield from self._check_together(wanted, place)

    def _check_alone(self, wanted: _Wanted, asked: _RequestedNetwork) -> Findings[_RequestedNetwork]:
        """Find what is wrong with one network by itself; return the repaired network."""
        yield from self._unknown(asked)

        def run(element: dict[str, Any]) -> None:
            alone = replace(asked, element=element)
            self._run(replace(wanted, networks=(alone,), devices={**self._every_device, **wanted.devices}))

        outcome = examine(run, asked.element, repairs=_ELEMENTS)
        for problem in outcome.problems:
            yield Finding.of(problem, asked.place)
        return replace(asked, element=outcome.value)

    def _unknown(self, asked: _RequestedNetwork) -> Iterator[Finding]:
        if asked.has_placeholder_name or tuple(asked.label.split("/")) in self._definitions.known:
            return
        labels = ["/".join(key) for key in self._definitions.known]
        # An error only if the files have networks of that namespace; other namespaces' may be in the cluster.
        whole = any(namespace == asked.label.partition("/")[0] for namespace, _ in self._definitions.known)
        what, where = f"none of the files has this {NAD}", Thing("network", asked.label)
        unknown = Error(Kind.INVALID_CONFIG, what, where=where, hint=did_you_mean(similar(asked.label, labels)))
        yield Finding(asked.place.line, error=whole, text=unknown.msg)

    def _check_together(self, wanted: _Wanted, place: Place) -> Iterator[Finding]:
        """Find what is wrong with all networks of a pod together: names, devices, default routes."""
        reported: set[str] = set()
        while True:
            try:
                self._run(wanted)
            except Error as error:
                if error.msg in reported:
                    return
                reported.add(error.msg)
                injected = _injector_adds(error, wanted)
                shown = (
                    error.with_hint("ignore this if a network resources injector adds it") if injected else error
                )
                yield Finding(_line(error, wanted, place), error=not injected, text=shown.msg)
                wanted = _without(error, wanted)
            else:
                return

    def _run(self, wanted: _Wanted) -> None:
        """Run the checks of ADD that precede its first change. Raises Error."""
        annotations = {
            DEFAULT_NETWORK: json.dumps([asked.element for asked in wanted.default]),
            NETWORKS: json.dumps([asked.element for asked in wanted.networks]),
        }
        pod = Pod(namespace=wanted.namespace, name=wanted.name, found={"metadata": {"annotations": annotations}})
        resolver = Resolver(
            chain=self._chain,
            cluster=self._permissive.cluster,
            devices_of=lambda _: self._devices(wanted),
            is_served=lambda *_: True,  # known on the node only
            ignored=lambda *_: None,  # reported where the annotation is read
            devinfo=Path("/"),
        )
        checks.check(resolver.delegates(_REQUEST, self._config, pod), self._chain, offline=True)

    def _devices(self, wanted: _Wanted) -> dict[str, list[str]]:
        """Return device ids by resource, including those that the pod's elements name."""
        found: dict[str, list[str]] = {}
        for asked in wanted.all:
            if isinstance(device := asked.element.get("deviceID"), str):
                namespace, _, name = asked.label.partition("/")
                resource = _resource(self._permissive.network(namespace, name)) or "any/device"
                found.setdefault(resource, []).append(device.lower())
        for resource, count in wanted.devices.items():
            ids = found.setdefault(resource, [])
            ids[:] = [*ids, *(f"{resource}#{number}" for number in range(count))][:count]
        return found


def _machines(element: dict[str, Any], namespace: str, place: Place) -> Findings[_RequestedNetwork | None]:
    """Return a virtual machine's network as an element of its pod's annotation; None if it is invalid."""
    try:
        (each,) = selection.parse(json.dumps([element]), namespace=namespace)
    except Error:
        name = "/".join(filter(None, (element.get("namespace"), element["name"])))
        text = f"multus.networkName: expected [<namespace>/]<name>, got {name!r}"
        yield Finding(place.line, error=True, text=text)
        return None
    return _RequestedNetwork(label=each.label, element={**element, "namespace": each.namespace}, place=place)


def _template_findings(
    raw: dict[str, Any], template: dict[str, Any], steps: tuple[str, ...], place: Place
) -> Iterator[Finding]:
    """Check a workload's template, and that networks are requested in the right place."""
    kind, metadata, where = raw["kind"], template.get("metadata"), ".".join(steps)
    if not template:
        yield Finding(place.at(steps).line, error=True, text=f"{kind}: {where}: expected the template of a pod")
    yield from misplaced.keys(metadata, place.at((*steps, "metadata")), f"{where}.metadata")
    yield from misplaced.workload_annotations(kind, raw["metadata"], metadata, steps, place.at(("metadata",)))


def _spec(raw: dict[str, Any], pod: dict[str, Any], steps: tuple[str, ...], place: Place) -> Iterator[Finding]:
    """Check a pod with the reader of `wirespeed play`, which is as strict as the API server."""
    version = "v1" if steps else raw.get("apiVersion")
    metadata = {key: value for key, value in pod["metadata"].items() if value is not None}
    outcome = examine(
        manifests.check, {**pod, "apiVersion": version, "kind": "Pod", "metadata": metadata}, repairs=_SPEC
    )
    label = f"{metadata.get('namespace') or 'default'}/{metadata['name']}"
    for problem in outcome.problems:
        fault = problem.fault.at(where=[f"{raw['kind']} {label}"], key=(*steps, *problem.fault.path))
        yield Finding.of(replace(problem, fault=fault), place)


def is_read(raw: dict[str, Any]) -> bool:
    """Return whether the object is a pod, or one of Kubernetes' own workload kinds."""
    group, slash, _ = str(raw.get("apiVersion")).rpartition("/")
    return raw["kind"] in TEMPLATES and (not slash or group in _GROUPS)


def _injector_adds(error: Error, wanted: _Wanted) -> bool:
    """Return whether the missing device would be requested by the network resources injector (admission webhook).

    The injector adds a network's resource to the limits of pods that do not name that resource themselves.
    """
    resources = error.things("resource") if error.kind == Kind.DEVICE else []
    return any(each not in wanted.listed for each in resources)


def _listed_resources(spec: dict[str, Any]) -> frozenset[str]:
    """Return the resources in the containers' limits and requests."""
    containers = [*list_at(spec, "containers"), *list_at(spec, "initContainers")]
    return frozenset(
        name
        for container in containers
        for part in ("limits", "requests")
        for name in object_at(container, "resources", part)
    )


def _with_name(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the object with a name; generateName becomes a name like the API server's."""
    metadata = object_at(raw, "metadata")
    if metadata.get("name") or not isinstance(metadata.get("generateName"), str):
        return raw
    return {**raw, "metadata": {**metadata, "name": f"{metadata['generateName']}x"}}


def _is_usable(raw: dict[str, Any]) -> bool:
    """Return whether the definition can be used to check pods. Invalid ones are reported by their own check."""
    text = value_at(raw, "spec", "config")
    if not isinstance(text, str) or not text.strip():
        return False
    try:
        load_network(read_definition(raw).raw, version=versions.LATEST)
    except Error:
        return False
    return True


def _resource(raw: dict[str, Any]) -> str:
    return str(value_at(raw, "metadata", "annotations", RESOURCE_NAME) or "")


def _limits(spec: dict[str, Any], known: Mapping[str, int]) -> dict[str, int]:
    """Return how many devices of each known resource the pod gets, at most _MANY."""
    sums: dict[str, int] = {}
    # The devices of init containers that end are used again by the containers.
    sidecars = [each for each in list_at(spec, "initContainers") if value_at(each, "restartPolicy") == "Always"]
    for container in [*list_at(spec, "containers"), *sidecars]:
        limits = object_at(container, "resources", "limits")
        for resource in limits.keys() & known.keys():
            with suppress(Error):  # rejected by the API server
                sums[resource] = min(sums.get(resource, 0) + quantity.whole_number(limits[resource]), _MANY)
    return sums


def _read(annotation: str, text: str, namespace: str, place: Place) -> Findings[list[_RequestedNetwork]]:
    """Parse an annotation; return its elements, with errors repaired."""
    if not text.strip():
        return []
    if not any(mark in text for mark in '[{"'):
        return (yield from _read_short(annotation, text, namespace, place))
    try:
        document = read_json(text, place.lines)
    except UnreadableError as error:
        yield Finding(error.line, error=True, text=f"annotation {annotation}: {error}")
        return []
    yield from repeated_key_findings(document)

    def run(value: Any) -> None:
        for each in selection.parse(json.dumps(value), namespace=namespace, annotation=annotation):
            for fault in each.ignored:
                warn(fault)

    outcome = examine(run, document.value, repairs=_ELEMENTS)
    for problem in outcome.problems:
        yield Finding.of(problem, document.place)
    try:
        parsed = selection.parse(json.dumps(outcome.value), namespace=namespace, annotation=annotation)
    except Error:  # cannot be repaired
        return []
    return [
        _RequestedNetwork(
            label=each.label,
            element={**selection.canonical(element), "namespace": each.namespace},
            place=document.place.at((index,)),
            has_placeholder_name=selection.canonical(object_at(given)).get("name") != each.name,
        )
        for index, (each, element, given) in enumerate(zip(parsed, outcome.value, document.value, strict=True))
    ]


def _read_short(annotation: str, text: str, namespace: str, place: Place) -> Findings[list[_RequestedNetwork]]:
    asked: list[_RequestedNetwork] = []
    offset = 0
    for index, item in enumerate(text.split(",")):
        line = place.lines(offset + len(item) - len(item.lstrip()))
        offset += len(item) + 1
        try:
            _, each = selection.parse(f"first,{item}", namespace=namespace, annotation=annotation)
        except Error as error:
            shown = error.at(key=(Element(index), *error.path[1:]))
            yield Finding(line, error=True, text=shown.msg)
            continue
        element = {"namespace": each.namespace, "name": each.name, "interface": each.interface}
        asked.append(_RequestedNetwork(label=each.label, element=element, place=Place(line)))
    return asked


def _line(error: Error, wanted: _Wanted, place: Place) -> int:
    """Return the line of the last network that the error is about, or of the key in its element."""
    best, line = (-1, False, 0), place.line
    labels = error.things("network")
    for number, asked in enumerate(wanted.all):
        position = max((index for index, label in enumerate(labels) if label == asked.label), default=-1)
        has_key = bool(error.path) and asked.element.get(str(error.path[0]), "") != ""
        rank = (position, has_key, number)
        if position >= 0 and rank > best:
            best, line = rank, asked.place.at(error.path).line
    return line


def _without(error: Error, wanted: _Wanted) -> _Wanted:
    """Return the same pod without the reported problem: with enough devices, or without the conflicting key."""
    if error.kind in (Kind.DEVICE, Kind.POLICY) and (resources := error.things("resource")):
        return replace(wanted, devices={**wanted.devices, **dict.fromkeys(resources, _MANY)})
    dropped = "interface" if error.kind == Kind.INTERFACE else "default-route"
    return replace(
        wanted,
        networks=tuple(
            replace(asked, element={key: value for key, value in asked.element.items() if key != dropped})
            for asked in wanted.networks
        ),
    )
