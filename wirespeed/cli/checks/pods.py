"""Checks of pods' networks: a dry run of an ADD up to its first change, with the definitions in the files."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed.cli.checks import made, misplaced, vfio
from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.networks import NAD, Definitions, metadata_fault, repeated
from wirespeed.cli.checks.places import Document, Place, UnreadableError, read_json
from wirespeed.cli.checks.problems import Mending, examine
from wirespeed.cni import versions
from wirespeed.cni.chain import Chain, Network, load_network
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import Request
from wirespeed.node import Node
from wirespeed.play import manifests, quantity
from wirespeed.plugins.meta import checks, networks, selection
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
_SPEC = Mending(
    keys={"name": "unknown", "containers": [{"name": "unknown"}], "spec": {"containers": [{"name": "unknown"}]}},
    elements={
        "containers": {"name": "unknown"},
        "initContainers": {"name": "unknown"},
        "volumes": {"emptyDir": {}},
    },
)
_ELEMENTS = Mending(keys={"name": "unknown"}, elements={"": {"name": "unknown"}})
_RESOURCE = re.compile(r"resource ([^\s:]+)")
_MANY = 100  # devices assumed of a resource whose number is unknown

Elements = list[dict[str, Any]]


class OfflineChain(Chain):
    """A chain whose plugins' executables are on other machines."""

    def check_plugins(self, network: Network, path: Sequence[str]) -> None:
        """Do nothing: the executables are not on this machine."""


class _Forgiving(Definitions):
    """Definitions that include every network; a missing or invalid one accepts every capability."""

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        return self.known.get((namespace, name)) or _anything(namespace, name)


def _anything(namespace: str, name: str) -> dict[str, Any]:
    capabilities = dict.fromkeys(("ips", "mac", "infinibandGUID", "portMappings", "bandwidth"), True)
    config = {"cniVersion": versions.LATEST, "name": name, "type": "unknown", "capabilities": capabilities}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"config": json.dumps(config)}}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A network that a pod requests: the element of the annotation, with errors repaired, and its place.

    `stand_in`: the element's name was invalid and has been replaced.
    """

    label: str
    element: dict[str, Any]
    place: Place
    stand_in: bool = False


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a pod, or each pod of a template, requests.

    `default` is the network that replaces the master, `devices` the number of devices per resource, `listed` the
    resources in the containers' limits and requests.
    """

    namespace: str
    name: str
    default: tuple[_Asked, ...] = ()
    networks: tuple[_Asked, ...] = ()
    devices: Mapping[str, int]
    listed: frozenset[str] = frozenset()

    @property
    def all(self) -> tuple[_Asked, ...]:
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
        self._usable = _Forgiving({key: raw for key, raw in definitions.known.items() if _is_usable(key, raw)})
        resources = {_resource(raw) for raw in self._usable.known.values()}
        self._every_device = dict.fromkeys(resources, _MANY)
        self._chain = OfflineChain(node.plugins)

    def check(self, raw: dict[str, Any], place: Place) -> Iterator[Finding]:
        """Check the annotations and the spec of a pod, or of a workload's template."""
        kind, steps = raw["kind"], TEMPLATES[raw["kind"]]
        raw = _with_name(raw)
        yield from misplaced.keys(raw.get("metadata"), place.at(("metadata",)))
        fault = metadata_fault(raw, kind)
        if fault is not None:
            yield Finding.of(fault, place)
            return
        pod: Any = raw
        for step in steps:
            pod = _object(_object(pod).get(step))
        if steps:
            yield from _of_template(raw, pod, steps, place)
            if not pod:
                return
        named = {key: raw["metadata"].get(key) for key in ("namespace", "name")}
        pod = {**pod, "metadata": {**_object(pod.get("metadata")), **named}}
        fault = metadata_fault(pod, f"{kind}: {'.'.join(steps)}" if steps else kind)
        if fault is not None:
            yield Finding.of(fault, place.at(steps))
            return
        yield from _spec(raw, pod, steps, place.at(steps))
        yield from self._pod(pod, place.at((*steps, "metadata", "annotations")))
        yield from vfio.findings(_object(pod.get("spec")), place.at((*steps, "spec")), self._on_vfio)

    def machine(self, document: Document) -> Iterator[Finding]:
        """Check the networks of a virtual machine. The pod that KubeVirt creates has all devices that they need."""
        metadata, elements, place = made.machine(document)
        pod = _with_name({"metadata": metadata})
        yield from misplaced.keys(document.value.get("metadata"), document.place.at(("metadata",)))
        if steps := made.MACHINES[document.value["kind"]]:
            yield from misplaced.keys(metadata, place, f"{'.'.join(steps)}.metadata")
        fault = metadata_fault(pod, document.value["kind"])
        if fault is not None:
            yield Finding.of(fault, place)
            return
        namespace = pod["metadata"].get("namespace") or "default"
        wanted = _Wanted(namespace=namespace, name=pod["metadata"]["name"], devices=self._every_device)
        asked = []
        for element, where in elements:
            found, each = _machines(element, namespace, where)
            yield from found
            if each is not None:
                found, each = self._alone(wanted, each)
                yield from found
                asked.append(each)
        yield from self._together(replace(wanted, networks=tuple(asked)), place)
        if not elements:  # otherwise KubeVirt overwrites the annotation
            claimed = {**pod, "spec": {"resourceClaims": [{}]}}
            yield from self._pod(claimed, place.at(("annotations",)))

    def _pod(self, pod: dict[str, Any], place: Place) -> Iterator[Finding]:
        metadata, spec = pod["metadata"], _object(pod.get("spec"))
        namespace = metadata.get("namespace") or "default"
        devices = self._every_device if spec.get("resourceClaims") else _limits(spec, self._every_device)
        wanted = _Wanted(namespace=namespace, name=metadata["name"], devices=devices, listed=_listed(spec))
        asked: list[tuple[_Asked, ...]] = []
        for annotation, space in ((DEFAULT_NETWORK, _CONFIG.multus_namespace), (NETWORKS, namespace)):
            text = _object(metadata.get("annotations")).get(annotation) or ""
            found, elements = _read(annotation, text, space, place.at((annotation,)))
            yield from found
            for number, each in enumerate(elements):
                found, elements[number] = self._alone(wanted, each)
                yield from found
            asked.append(tuple(elements))
        wanted = replace(wanted, default=asked[0], networks=asked[1])
        yield from self._together(wanted, place)

    def _alone(self, wanted: _Wanted, asked: _Asked) -> tuple[list[Finding], _Asked]:
        """Find what is wrong with one network by itself; return the findings and the repaired network."""
        found = [] if (unknown := self._unknown(asked)) is None else [unknown]

        def run(element: dict[str, Any]) -> None:
            alone = replace(asked, element=element)
            self._run(replace(wanted, networks=(alone,), devices={**self._every_device, **wanted.devices}))

        outcome = examine(run, asked.element, mending=_ELEMENTS)
        found += [Finding.of(problem, asked.place) for problem in outcome.problems]
        return found, replace(asked, element=outcome.value)

    def _unknown(self, asked: _Asked) -> Finding | None:
        if asked.stand_in or tuple(asked.label.split("/")) in self._definitions.known:
            return None
        labels = ["/".join(key) for key in self._definitions.known]
        near = difflib.get_close_matches(asked.label, labels, 1)
        hint = f"; the nearest is {near[0]}" if near else ""
        # An error only if the files have networks of that namespace; other namespaces' may be in the cluster.
        whole = any(namespace == asked.label.partition("/")[0] for namespace, _ in self._definitions.known)
        return Finding(
            asked.place.line, error=whole, text=f"network {asked.label}: none of the files has this {NAD}{hint}"
        )

    def _together(self, wanted: _Wanted, place: Place) -> Iterator[Finding]:
        """Find what is wrong with all networks of a pod together: names, devices, default routes."""
        said: set[str] = set()
        while True:
            try:
                self._run(wanted)
            except CniError as error:
                if error.msg in said:
                    return
                said.add(error.msg)
                filled_in = _is_filled_in(error, wanted)
                text = f"{error.msg}, unless a network resources injector adds it" if filled_in else error.msg
                yield Finding(_line(error.msg, wanted, place), error=not filled_in, text=text)
                wanted = _without(error, wanted)
            else:
                return

    def _run(self, wanted: _Wanted) -> None:
        """Run the checks of ADD that precede its first change. Raises CniError."""
        annotations = {
            DEFAULT_NETWORK: json.dumps([asked.element for asked in wanted.default]),
            NETWORKS: json.dumps([asked.element for asked in wanted.networks]),
        }
        pod = Pod(namespace=wanted.namespace, name=wanted.name, found={"metadata": {"annotations": annotations}})
        resolver = Resolver(
            chain=self._chain,
            cluster=self._usable.cluster,
            devices_of=lambda _: self._devices(wanted),
            served=lambda *_: True,  # known on the node only
            ignored=lambda *_: None,  # reported where the annotation is read
            devinfo=Path("/"),
        )
        checks.check(resolver.delegates(_REQUEST, self._config, pod), self._chain, elsewhere=True)

    def _devices(self, wanted: _Wanted) -> dict[str, list[str]]:
        """Return device ids by resource, including those that the pod's elements name."""
        found: dict[str, list[str]] = {}
        for asked in wanted.all:
            if isinstance(device := asked.element.get("deviceID"), str):
                namespace, _, name = asked.label.partition("/")
                resource = _resource(self._usable.network(namespace, name)) or "any/device"
                found.setdefault(resource, []).append(device.lower())
        for resource, count in wanted.devices.items():
            mine = found.setdefault(resource, [])
            mine[:] = [*mine, *(f"{resource}#{number}" for number in range(count))][:count]
        return found


def _machines(element: dict[str, Any], namespace: str, place: Place) -> tuple[list[Finding], _Asked | None]:
    """Return a virtual machine's network as an element of its pod's annotation, with findings if it is invalid."""
    try:
        (each,) = selection.parse(json.dumps([element]), namespace=namespace)
    except CniError:
        name = "/".join(filter(None, (element.get("namespace"), element["name"])))
        text = f"multus.networkName: expected [<namespace>/]<name>, got {name!r}"
        return [Finding(place.line, error=True, text=text)], None
    return [], _Asked(label=each.label, element={**element, "namespace": each.namespace}, place=place)


def _of_template(
    raw: dict[str, Any], template: dict[str, Any], steps: tuple[str, ...], place: Place
) -> Iterator[Finding]:
    """Check a workload's template, and that networks are requested in the right place."""
    kind, metadata, where = raw["kind"], template.get("metadata"), ".".join(steps)
    if not template:
        yield Finding(place.at(steps).line, error=True, text=f"{kind}: {where}: expected the template of a pod")
    yield from misplaced.keys(metadata, place.at((*steps, "metadata")), f"{where}.metadata")
    yield from misplaced.of_workload(kind, raw["metadata"], metadata, steps, place.at(("metadata",)))


def _spec(raw: dict[str, Any], pod: dict[str, Any], steps: tuple[str, ...], place: Place) -> Iterator[Finding]:
    """Check a pod with the reader of `wirespeed play`, which is as strict as the API server."""
    version = "v1" if steps else raw.get("apiVersion")
    metadata = {key: value for key, value in pod["metadata"].items() if value is not None}
    outcome = examine(
        manifests.check, {**pod, "apiVersion": version, "kind": "Pod", "metadata": metadata}, mending=_SPEC
    )
    label = f"{metadata.get('namespace') or 'default'}/{metadata['name']}"
    for problem in outcome.problems:
        text = problem.text.replace(f"Pod {label}: spec", f"{raw['kind']} {label}: {'.'.join((*steps, 'spec'))}", 1)
        yield Finding.of(replace(problem, text=text), place)


def is_read(raw: dict[str, Any]) -> bool:
    """Return whether the object is a pod, or one of Kubernetes' own workload kinds."""
    group, slash, _ = str(raw.get("apiVersion")).rpartition("/")
    return raw["kind"] in TEMPLATES and (not slash or group in _GROUPS)


def _is_filled_in(error: CniError, wanted: _Wanted) -> bool:
    """Return whether the missing device would be requested by the network resources injector (admission webhook).

    The injector adds a network's resource to the limits of pods that do not name that resource themselves.
    """
    match = _RESOURCE.search(error.msg) if error.code == Code.DEVICE else None
    return match is not None and match[1] not in wanted.listed


def _listed(spec: dict[str, Any]) -> frozenset[str]:
    """Return the resources in the containers' limits and requests."""
    found: set[str] = set()
    for key in ("containers", "initContainers"):
        containers = spec.get(key)
        for container in map(_object, containers if isinstance(containers, list) else ()):
            resources = _object(container.get("resources"))
            found.update(*(_object(resources.get(part)) for part in ("limits", "requests")))
    return frozenset(found)


def _with_name(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the object with a name; generateName becomes a name like the API server's."""
    metadata = _object(raw.get("metadata"))
    if metadata.get("name") or not isinstance(metadata.get("generateName"), str):
        return raw
    return {**raw, "metadata": {**metadata, "name": f"{metadata['generateName']}x"}}


def _is_usable(key: tuple[str, str], raw: dict[str, Any]) -> bool:
    """Return whether the definition can be used to check pods. Invalid ones are reported by their own check."""
    text = _object(raw.get("spec")).get("config")
    if not isinstance(text, str) or not text.strip():
        return False
    try:
        source = networks.definition(Definitions({key: raw}).cluster(), *key, conf_dir="")
        load_network(source.raw, version=versions.LATEST)
    except CniError:
        return False
    return True


def _resource(raw: dict[str, Any]) -> str:
    return str(_object(raw["metadata"].get("annotations")).get(RESOURCE_NAME) or "")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _limits(spec: dict[str, Any], known: Mapping[str, int]) -> dict[str, int]:
    """Return how many devices of each known resource the pod gets, at most _MANY."""
    sums: dict[str, int] = {}
    for key in ("containers", "initContainers"):
        containers = spec.get(key)
        for container in map(_object, containers if isinstance(containers, list) else ()):
            if key == "initContainers" and container.get("restartPolicy") != "Always":
                continue  # init containers' devices are reused by the containers
            limits = _object(_object(container.get("resources")).get("limits"))
            for resource in limits.keys() & known.keys():
                try:
                    sums[resource] = min(sums.get(resource, 0) + quantity.whole(limits[resource]), _MANY)
                except ValueError:
                    continue  # rejected by the API server
    return sums


def _read(annotation: str, text: str, namespace: str, place: Place) -> tuple[list[Finding], list[_Asked]]:
    """Parse an annotation; return the findings, and the elements with errors repaired."""
    if not text.strip():
        return [], []
    if not any(mark in text for mark in '[{"'):
        return _read_short(annotation, text, namespace, place)
    try:
        document = read_json(text, place.lines)
    except UnreadableError as error:
        return [Finding(error.line, error=True, text=f"annotation {annotation}: {error}")], []
    found = list(repeated(document))

    def run(value: Any) -> None:
        for each in selection.parse(json.dumps(value), namespace=namespace, annotation=annotation):
            for line in each.ignored:
                warn(line)

    outcome = examine(run, document.value, mending=_ELEMENTS)
    found += [Finding.of(problem, document.place) for problem in outcome.problems]
    try:
        parsed = selection.parse(json.dumps(outcome.value), namespace=namespace, annotation=annotation)
    except CniError:  # cannot be repaired
        return found, []
    return found, [
        _Asked(
            label=each.label,
            element={**selection.canonical(element), "namespace": each.namespace},
            place=document.place.at((index,)),
            stand_in=selection.canonical(_object(given)).get("name") != each.name,
        )
        for index, (each, element, given) in enumerate(zip(parsed, outcome.value, document.value, strict=True))
    ]


def _read_short(annotation: str, text: str, namespace: str, place: Place) -> tuple[list[Finding], list[_Asked]]:
    found: list[Finding] = []
    asked: list[_Asked] = []
    offset = 0
    for number, item in enumerate(text.split(","), start=1):
        line = place.lines(offset + len(item) - len(item.lstrip()))
        offset += len(item) + 1
        try:
            _, each = selection.parse(f"first,{item}", namespace=namespace, annotation=annotation)
        except CniError as error:
            told = error.msg.replace(": element 2:", f": element {number}:", 1)
            found.append(Finding(line, error=True, text=told))
            continue
        element = {"namespace": each.namespace, "name": each.name, "interface": each.interface}
        asked.append(_Asked(label=each.label, element=element, place=Place(line)))
    return found, asked


def _line(text: str, wanted: _Wanted, place: Place) -> int:
    """Return the line of the last network that the message names, or of the key in its element that it names."""
    best, line = (-1, False, 0), place.line
    for number, asked in enumerate(wanted.all):
        position = text.rfind(f"network {asked.label}")
        steps = tuple(key for key, value in asked.element.items() if value != "" and f'"{key}"' in text)[:1]
        rank = (position, bool(steps), number)
        if position >= 0 and rank > best:
            best, line = rank, asked.place.at(steps).line
    return line


def _without(error: CniError, wanted: _Wanted) -> _Wanted:
    """Return the same pod without the reported problem: with enough devices, or without the conflicting key."""
    if error.code in (Code.DEVICE, Code.POLICY) and (match := _RESOURCE.search(error.msg)):
        return replace(wanted, devices={**wanted.devices, match[1]: _MANY})
    dropped = "interface" if error.code == Code.INTERFACE else "default-route"
    return replace(
        wanted,
        networks=tuple(
            replace(asked, element={key: value for key, value in asked.element.items() if key != dropped})
            for asked in wanted.networks
        ),
    )
