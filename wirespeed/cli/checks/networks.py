"""Checks of CNI configurations and NetworkAttachmentDefinitions, with the code that reads them for an ADD."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from wirespeed.cli.checks import drivers, misplaced
from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.places import Document, Place, UnreadableError, read_json
from wirespeed.cli.checks.problems import Mending, Problem, examine, without
from wirespeed.cni import versions
from wirespeed.cni.chain import canonical, load_network
from wirespeed.cni.errors import CniError
from wirespeed.cni.execute import find_plugin
from wirespeed.cni.request import Request
from wirespeed.ipam import check_usable, hostlocal, static
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.node import ALIASES, NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import networks
from wirespeed.plugins.meta.checks import GIVES_TO_IPAM
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.plugins.meta.selection import check_name, check_namespace
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.vhost import conf as vhost_conf

NAD = "NetworkAttachmentDefinition"
_NAD_VERSION = "k8s.cni.cncf.io/v1"
_DEVICE = "0000:00:00.0"  # a placeholder for the device that a pod gets
_STAND_IN = "unknown"
_MENDING = Mending(
    keys={"name": _STAND_IN, "cniVersion": versions.LATEST, "type": _STAND_IN},
    elements={"plugins": {"type": _STAND_IN}, "delegates": {"name": _STAND_IN, "type": _STAND_IN}},
)
_DEFINITION = Mending(keys={"config": f'{{"type": "{_STAND_IN}"}}'}, elements={})


@dataclass(frozen=True, kw_only=True)
class Executables:
    """The directories with plugins' executables, and the plugin types that need none because they are built in."""

    path: tuple[str, ...]
    builtin: Container[str]

    def check(self, plugin: dict[str, Any]) -> None:
        """Raise CniError if an executable that the plugin's configuration needs does not exist."""
        kind = plugin["type"]
        if kind not in self.builtin:
            find_plugin(kind, self.path)
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and isinstance(ipam.get("type"), str):
            check_usable(plugin, self.path, executed=kind in GIVES_TO_IPAM)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a configuration may omit because its context provides it. Without `executables`, none are searched for.

    `device`: a deviceID will be added.
    """

    name: str = ""
    version: str = ""
    device: bool = False
    executables: Executables | None = None


NOTHING = Given()


def configuration(document: Document, given: Given = NOTHING) -> Iterator[Finding]:
    """Check a network's configuration (conf or conflist)."""
    raw, place = document.value, document.place
    name = (canonical(raw).get("name") if isinstance(raw, dict) else "") or given.name
    outcome = examine(
        lambda value: load_network(value, name=given.name, version=given.version),
        raw,
        mending=_MENDING,
        reword=without(f"network {name}: ", f"network {_STAND_IN}: ", "network without a name: "),
    )
    for problem in outcome.problems:
        yield Finding.of(problem, place)
    if not isinstance(raw, dict):
        return
    conf = canonical(raw)
    single = bool(conf.get("type"))
    plugins = [conf] if single else conf.get("plugins")
    for index, plugin in enumerate(plugins if isinstance(plugins, list) else ()):
        if isinstance(plugin, dict) and isinstance(plugin.get("type"), str):
            config = {**plugin, "name": str(name or _STAND_IN), "cniVersion": versions.LATEST}
            yield from _plugin(config, place if single else place.at(("plugins", index)), given)


def _plugin(config: dict[str, Any], place: Place, given: Given) -> Iterator[Finding]:
    """Check the configuration of one of our plugins; of other plugins only `ipam`."""
    reword = without(f"network {config['name']}: ")
    kind = ALIASES.get(config["type"], config["type"])
    if given.executables:
        try:
            given.executables.check(config)
        except CniError as error:
            yield Finding(place.at(("type",)).line, error=True, text=error.msg)
    if kind == "meta":
        yield from _meta(config, place, given.executables)
    elif kind in _READERS:
        yield from drivers.slip('key "driver"', config.get("driver"), place.at(("driver",)))
        injected = _INJECTED.get(kind, {})
        if given.device:
            config = {**config, **injected}
        mending = Mending(keys=injected, elements={})
        for problem in examine(_READERS[kind], config, mending=mending, reword=reword).problems:
            # Outside of a pod there is no device yet, and this machine need not have the node's users.
            elsewhere = '"deviceID" is missing' in problem.text or "that this node knows" in problem.text
            yield Finding.of(problem, place, error=problem.error and not elsewhere)
    for problem in examine(_read_ipam, config, reword=reword).problems:
        yield Finding.of(problem, place, error=problem.error and kind in _READERS)


def _request(config: dict[str, Any]) -> Request:
    return Request(command="ADD", container_id="check", netns="/check", ifname="net1", config=config)


# Readers of our plugins' configurations, and the keys that the meta-plugin adds.
_READERS: Mapping[str, Callable[[dict[str, Any]], object]] = {
    "sriov": lambda config: sriov_conf.parse(_request(config), Path(NodeConfig().devinfo)),
    "vhost": lambda config: vhost_conf.parse(_request(config), Path(NodeConfig().devinfo)),
}
_INJECTED = {"sriov": {"deviceID": _DEVICE}}
_IPAM: Mapping[str, Callable[[Request], object]] = {
    "host-local": lambda request: (hostlocal.parse(request), hostlocal.folder(request, Path("/"))),
    "static": static.add,
}


def _read_ipam(config: dict[str, Any]) -> None:
    ipam = config.get("ipam")
    reader = _IPAM.get(str(ipam.get("type"))) if isinstance(ipam, dict) else None
    if isinstance(ipam, dict) and reader is not None:
        if str(ipam.get("resolvConf")).startswith("/"):  # a file on the node, not here
            ipam = {key: value for key, value in ipam.items() if key != "resolvConf"}
        reader(_request({**config, "ipam": ipam}))


def _meta(config: dict[str, Any], place: Place, executables: Executables | None) -> Iterator[Finding]:
    """Check the meta-plugin's own configuration and the networks in it."""
    mending = Mending(keys={"clusterNetwork": _STAND_IN}, elements=_MENDING.elements)
    reword = without(f"configuration {config['name']}: ")
    for problem in examine(meta_config.load, config, mending=mending, reword=reword).problems:
        yield Finding.of(problem, place)
    delegates = config.get("delegates")
    if config.get("clusterNetwork"):  # delegates are not read then; reported above
        return
    if not isinstance(delegates, list) or not all(isinstance(each, dict) for each in delegates):
        return
    for problem in examine(lambda value: networks.inline(value["delegates"]), config, mending=_MENDING).problems:
        yield Finding.of(problem, place)
    for index, each in enumerate(delegates):
        raw = {key: value for key, value in each.items() if key != "masterplugin"}
        network = Document(raw, place.at(("delegates", index)))
        given = Given(name=_STAND_IN, version=versions.LATEST, executables=executables)
        yield from configuration(network, given)


@dataclass
class Definitions:
    """The NetworkAttachmentDefinitions of the files. Stands in for `Cluster` when networks are resolved."""

    known: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        if (namespace, name) not in self.known:
            raise NotFoundError(f"{NAD} {namespace}/{name}: none of the files has it")
        return self.known[namespace, name]

    def cluster(self) -> Cluster:
        return cast("Cluster", self)


def definition(document: Document, given: Given = NOTHING) -> Iterator[Finding]:
    """Check a NetworkAttachmentDefinition."""
    raw, place = document.value, document.place
    yield from misplaced.keys(raw.get("metadata"), place.at(("metadata",)))
    fault = definition_fault(raw)
    if fault is not None:
        yield Finding.of(fault, place)
        return
    namespace, name = key(raw)
    resource = (raw["metadata"].get("annotations") or {}).get(RESOURCE_NAME)
    text, where = (raw.get("spec") or {}).get("config") or "", place.at(("spec", "config"))
    if isinstance(text, str) and not text.strip():
        reason = f"expected a CNI configuration: without one the node's own of the name {name!r} holds"
        yield Finding(where.line, error=False, text=f"{NAD} {namespace}/{name}: spec.config: {reason}")
        return
    outcome = examine(
        lambda value: networks.definition(
            Definitions({(namespace, name): value}).cluster(), namespace, name, conf_dir=""
        ),
        raw,
        mending=_DEFINITION,
    )
    for problem in outcome.problems:
        if "not JSON" not in problem.text:  # reported below, with its line
            yield Finding.of(problem, place)
    if isinstance(text, str):
        try:
            config = read_json(text, where.lines)
        except UnreadableError as error:
            yield Finding(error.line, error=True, text=f"{NAD} {namespace}/{name}: spec.config: {error}")
            return
        yield from repeated(config)
        yield from configuration(
            config, replace(given, name=name, version=versions.LATEST, device=resource is not None)
        )


def repeated(document: Document) -> Iterator[Finding]:
    """Warn about repeated keys in an object: readers use the last value."""
    for line, name in document.twice:
        yield Finding(line, error=False, text=f'key "{name}" is there twice in one object: the last one counts')


def key(raw: dict[str, Any]) -> tuple[str, str]:
    """Return the namespace and name of an object."""
    metadata = raw["metadata"]
    return metadata.get("namespace") or "default", metadata["name"]


def definition_fault(raw: dict[str, Any]) -> Problem | None:
    """Return why the object is not a valid NetworkAttachmentDefinition, None if it is."""
    if raw.get("apiVersion") != _NAD_VERSION:
        return Problem(
            f"{NAD}: apiVersion: expected {_NAD_VERSION}, got {raw.get('apiVersion')!r}", ("apiVersion",)
        )
    return metadata_fault(raw, NAD)


def metadata_fault(raw: dict[str, Any], what: str) -> Problem | None:
    """Return what is wrong with an object's name, namespace or annotations, or with the type of its spec."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        return Problem(f"{what}: metadata: expected an object, got {metadata!r}", ("metadata",))
    try:
        check_name(metadata.get("name"), f"{what}: metadata.name")
    except CniError as error:
        return Problem(error.msg, ("metadata", "name"))
    try:
        check_namespace(metadata.get("namespace") or "default", f"{what}: metadata.namespace")
    except CniError as error:
        return Problem(error.msg, ("metadata", "namespace"))
    annotations = metadata.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        return Problem(f"{what}: metadata.annotations: expected an object of strings", ("metadata", "annotations"))
    if not isinstance(raw.get("spec") or {}, dict):
        return Problem(f"{what}: spec: expected an object, got {type(raw['spec']).__name__}", ("spec",))
    return None
