"""Checks of CNI configurations and NetworkAttachmentDefinitions, with the code that reads them for an ADD."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from wirespeed import errors
from wirespeed.cli.checks import drivers, misplaced
from wirespeed.cli.checks.findings import Finding, findings_of
from wirespeed.cli.checks.places import Document, Place, UnreadableError, list_at, object_at, read_json
from wirespeed.cli.checks.problems import Problem, Repairs, examine
from wirespeed.cni import versions
from wirespeed.cni.chain import canonical, load_network
from wirespeed.cni.execute import find_plugin
from wirespeed.cni.request import Request
from wirespeed.errors import NOTHING as NOTHING_THERE
from wirespeed.errors import Error, Kind
from wirespeed.ipam import check_usable, hostlocal, static
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.node import ALIASES, NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import networks
from wirespeed.plugins.meta.checks import DELEGATES_TO_IPAM
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.plugins.meta.selection import check_name, check_namespace
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.vhost import conf as vhost_conf

NAD = "NetworkAttachmentDefinition"
_NAD_VERSION = "k8s.cni.cncf.io/v1"
_DEVICE = "0000:00:00.0"  # a placeholder for the device that a pod gets
_PLACEHOLDER = "unknown"
_REPAIRS = Repairs(
    keys={"name": _PLACEHOLDER, "cniVersion": versions.LATEST, "type": _PLACEHOLDER},
    elements={"plugins": {"type": _PLACEHOLDER}, "delegates": {"name": _PLACEHOLDER, "type": _PLACEHOLDER}},
)
_DEFINITION = Repairs(keys={"config": f'{{"type": "{_PLACEHOLDER}"}}'}, elements={})


@dataclass(frozen=True, kw_only=True)
class Executables:
    """The directories with plugins' executables, and the plugin types that need none because they are built in."""

    path: tuple[str, ...]
    builtin: Container[str]

    def check(self, plugin: dict[str, Any]) -> None:
        """Raise Error if an executable that the plugin's configuration needs does not exist."""
        kind = plugin["type"]
        if kind not in self.builtin:
            find_plugin(kind, self.path)
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and isinstance(ipam.get("type"), str):
            check_usable(plugin, self.path, executed=kind in DELEGATES_TO_IPAM)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a configuration may omit because its context provides it."""

    name: str = ""
    version: str = ""
    device: bool = False  # a deviceID will be added
    executables: Executables | None = None  # None: they are not searched for


NO_CONTEXT = Context()


def configuration(document: Document, context: Context = NO_CONTEXT) -> Iterator[Finding]:
    """Check a network's configuration (conf or conflist)."""
    raw, place = document.value, document.place
    name = (canonical(raw).get("name") if isinstance(raw, dict) else "") or context.name
    yield from findings_of(
        lambda value: load_network(value, name=context.name, version=context.version),
        raw,
        place,
        repairs=_REPAIRS,
        leave_out=[f"network {name}", f"network {_PLACEHOLDER}", "network without a name"],
    )
    if not isinstance(raw, dict):
        return
    conf = canonical(raw)
    single = bool(conf.get("type"))
    plugins = [conf] if single else conf.get("plugins")
    for index, plugin in enumerate(list_at(plugins)):
        if isinstance(plugin, dict) and isinstance(plugin.get("type"), str):
            config = {**plugin, "name": str(name or _PLACEHOLDER), "cniVersion": versions.LATEST}
            yield from _plugin(config, place if single else place.at(("plugins", index)), context)


def _plugin(config: dict[str, Any], place: Place, context: Context) -> Iterator[Finding]:
    """Check the configuration of one of our plugins; of other plugins only `ipam`."""
    leave_out = [f"network {config['name']}"]
    kind = ALIASES.get(config["type"], config["type"])
    if context.executables:
        try:
            context.executables.check(config)
        except Error as error:
            yield Finding(place.at(("type",)).line, error=True, text=error.msg)
    if kind == "meta":
        yield from _meta(config, place, context.executables)
    elif kind in _READERS:
        yield from drivers.misspelt("driver", config.get("driver"), place.at(("driver",)))
        injected = _INJECTED.get(kind, {})
        if context.device:
            config = {**config, **injected}
        repairs = Repairs(keys=injected, elements={})
        for problem in examine(_READERS[kind], config, repairs=repairs, leave_out=leave_out).problems:
            # Outside of a pod there is no device yet, and this machine need not have the node's users.
            fault = problem.fault
            elsewhere = (fault.missing and fault.path == ("deviceID",)) or fault.things("account")
            yield Finding.of(problem, place, error=problem.error and not elsewhere)
    for problem in examine(_read_ipam, config, leave_out=leave_out).problems:
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
    ipam = object_at(config, "ipam")
    if reader := _IPAM.get(str(ipam.get("type"))):
        if str(ipam.get("resolvConf")).startswith("/"):  # a file on the node, not here
            ipam = {key: value for key, value in ipam.items() if key != "resolvConf"}
        reader(_request({**config, "ipam": ipam}))


def _meta(config: dict[str, Any], place: Place, executables: Executables | None) -> Iterator[Finding]:
    """Check the meta-plugin's own configuration and the networks in it."""
    repairs = Repairs(keys={"clusterNetwork": _PLACEHOLDER}, elements=_REPAIRS.elements)
    leave_out = [f"configuration {config['name']}"]
    yield from findings_of(meta_config.load, config, place, repairs=repairs, leave_out=leave_out)
    delegates = config.get("delegates")
    if config.get("clusterNetwork"):  # delegates are not read then; reported above
        return
    if not isinstance(delegates, list) or not all(isinstance(each, dict) for each in delegates):
        return
    yield from findings_of(_read_delegates, config, place, repairs=_REPAIRS)
    for index, each in enumerate(delegates):
        raw = {key: value for key, value in each.items() if key != "masterplugin"}
        network = Document(raw, place.at(("delegates", index)))
        context = Context(name=_PLACEHOLDER, version=versions.LATEST, executables=executables)
        yield from configuration(network, context)


def _read_delegates(config: dict[str, Any]) -> None:
    with errors.under("delegates"):
        networks.inline(config["delegates"])


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


def definition(document: Document, context: Context = NO_CONTEXT) -> Iterator[Finding]:
    raw, place = document.value, document.place
    yield from misplaced.keys(raw.get("metadata"), place.at(("metadata",)))
    if fault := definition_fault(raw):
        yield Finding.of(fault, place)
        return
    namespace, name = key(raw)
    resource = (raw["metadata"].get("annotations") or {}).get(RESOURCE_NAME)
    text, where = (raw.get("spec") or {}).get("config") or "", place.at(("spec", "config"))
    if isinstance(text, str) and not text.strip():
        hint = f"without one, the configuration of the name {name!r} on the node is used"
        empty = _fault(f"{NAD} {namespace}/{name}", "spec.config", "a CNI configuration", hint=hint)
        yield Finding(where.line, error=False, text=empty.msg)
        return
    config: Document | None = None
    if isinstance(text, str):
        try:
            config = read_json(text, where.lines)
        except UnreadableError as error:
            unread = Error(Kind.INVALID_CONFIG, str(error), where=f"{NAD} {namespace}/{name}", key="spec.config")
            yield Finding(error.line, error=True, text=unread.msg)
            raw = {**raw, "spec": {**raw["spec"], **_DEFINITION.keys}}
    yield from findings_of(read_definition, raw, place, repairs=_DEFINITION)
    if config is not None:
        yield from repeated_key_findings(config)
        context = replace(context, name=name, version=versions.LATEST, device=resource is not None)
        yield from configuration(config, context)


def read_definition(raw: dict[str, Any]) -> networks.Source:
    """Read a NetworkAttachmentDefinition as for an ADD. Raises Error."""
    return networks.definition(Definitions({key(raw): raw}).cluster(), *key(raw), conf_dir="")


def repeated_key_findings(document: Document) -> Iterator[Finding]:
    """Warn about repeated keys in an object: readers use the last value."""
    for line, name in document.repeated_keys:
        yield Finding(line, error=False, text=f'key "{name}" is there twice in one object: the last one counts')


def key(raw: dict[str, Any]) -> tuple[str, str]:
    """Return the namespace and name of an object."""
    metadata = raw["metadata"]
    return metadata.get("namespace") or "default", metadata["name"]


def definition_fault(raw: dict[str, Any]) -> Problem | None:
    """Return why the object is not a valid NetworkAttachmentDefinition, None if it is."""
    version = raw.get("apiVersion")
    if version != _NAD_VERSION:
        return Problem.of(_fault(NAD, "apiVersion", _NAD_VERSION, version), raw)
    return metadata_fault(raw, NAD)


def metadata_fault(raw: dict[str, Any], what: str) -> Problem | None:
    """Return what is wrong with an object's name, namespace or annotations, or with the type of its spec."""
    metadata, spec = raw.get("metadata"), raw.get("spec") or {}
    if not isinstance(metadata, dict):
        return Problem.of(_fault(what, "metadata", "an object", metadata), raw)
    try:
        with errors.under("metadata", "name"):
            check_name(metadata.get("name"))
        with errors.under("metadata", "namespace"):
            check_namespace(metadata.get("namespace") or "default")
    except Error as error:
        return Problem.of(error.within(what), raw)
    annotations = metadata.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        return Problem.of(_fault(what, "metadata.annotations", "an object of strings", annotations), raw)
    if not isinstance(spec, dict):
        return Problem.of(_fault(what, "spec", "an object", spec), raw)
    return None


def _fault(what: str, key: str, expected: str, got: object = NOTHING_THERE, hint: str = "") -> Error:
    return Error(Kind.INVALID_CONFIG, where=what, key=key, expected=expected, got=got, hint=hint)
