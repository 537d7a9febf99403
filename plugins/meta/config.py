"""The meta-plugin's configuration: its keys and their checks. A Multus configuration is accepted unchanged."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, get_args

import msgspec

from wirespeed import errors, structs
from wirespeed.cni.request import check_network_name
from wirespeed.errors import Error, Kind, Thing
from wirespeed.keys import normalize_case, unknown_key

log = logging.getLogger(__name__)

OWN_TYPE = "wirespeed"

Capability = Literal["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"]  # what the annotation can ask for
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


@structs.prepared
class MetaConfig(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys that the meta-plugin reads; those that the CNI specification has for every plugin come first."""

    type: str = OWN_TYPE
    """the name of the shim's executable in the runtime's plugin directory"""
    name: str = ""
    """the network's name: letters, digits, `_`, `.` and `-`"""
    cni_version: str = ""
    """0.1.0 to 1.1.0; default: 0.1.0. Results are returned in this version"""
    capabilities: dict[str, bool] = {}
    """what the runtime is to pass in `runtimeConfig`: `{"portMappings": true}`"""
    runtime_config: dict[str, Any] = {}
    """what the runtime passed. Only the network of `eth0` receives it"""
    cluster_network: str = ""
    """the network of the primary CNI plugin: the name of a NetworkAttachmentDefinition in `multusNamespace`, the
    name of a configuration in `confDir`, or the path of a file or directory. Either this key or `delegates` is
    required"""
    delegates: list[dict[str, Any]] = []
    """instead of `clusterNetwork`, a list of network configurations. The configuration with `"masterplugin": true`,
    otherwise the first, is that of the primary CNI plugin"""
    default_networks: list[str] = []
    """additional networks for each pod, before those that the pod requests. They are named like `clusterNetwork`,
    which is then required"""
    system_namespaces: list[str] = msgspec.field(default_factory=lambda: ["kube-system"])
    """namespaces whose pods get no `defaultNetworks`"""
    multus_namespace: str = "kube-system"
    """the namespace of the NetworkAttachmentDefinitions that `clusterNetwork` and `defaultNetworks` name"""
    namespace_isolation: bool = False
    """a pod may use only networks of its own namespace and of `globalNamespaces`"""
    global_namespaces: str | None = None
    """namespaces whose networks every pod may use, separated by commas; default: `default`"""
    auxiliary_cni_chain_name: str = msgspec.field(name="auxiliaryCNIChainName", default="")
    """the name of a directory alongside the file of `clusterNetwork`, which must be a path. Its `*.conf` files form
    an additional chain of plugins, which is run last, on the interface of the primary CNI plugin"""
    first_interface: Annotated[int, msgspec.Meta(ge=0, le=9999)] = 1
    """the number of the first interface after `eth0`: with 1 it is `net1`, with 0 it is `net0`"""
    lenient_capabilities: list[Capability] = []
    """`ips`, `mac`, `infinibandGUID`, `portMappings`, `bandwidth`: what pods may request from a network without the
    capability. An address or a MAC is then passed in `CNI_ARGS`; anything else has no effect. Default with `"type":
    "multus"` or `multus-shim`: all of them"""
    conf_dir: str = "/etc/cni/multus/net.d"
    """the directory of configurations that are found by name"""
    bin_dir: str = "/opt/cni/bin"
    """the directory that is searched for plugins before those in `CNI_PATH`"""
    kubeconfig: str = ""
    """ignored, because the agent uses its own (`cluster.kubeconfig`)"""

    @property
    def where(self) -> Thing:
        return Thing("configuration", self.name)

    def hotplug_settings(self) -> dict[str, Any]:
        """The keys that hotplug needs later: what networks a pod may have, and where to find them."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key in _HOTPLUG_KEYS}

    @property
    def exempt_namespaces(self) -> frozenset[str]:
        """The namespaces whose networks every pod may use."""
        listed = "default" if self.global_namespaces is None else self.global_namespaces
        return frozenset(part.strip() for part in listed.split(",") if part.strip())


_HOTPLUG_KEYS = frozenset(
    {"name", "cniVersion", "namespaceIsolation", "globalNamespaces", "firstInterface", "lenientCapabilities"}
    | {"confDir", "binDir"}
)
# Keys of the CNI specification for other plugins or for the runtime; accepted without effect here.
_SPECIFICATION_KEYS = frozenset(
    {"args", "ipam", "dns", "prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"}
    | {"cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
)
# Keys of Multus that are not needed here: state is in the journal, the agent does the logging.
_IGNORED_MULTUS_KEYS = frozenset(
    {"cniDir", "retryDeleteOnError", "logFile", "logLevel", "logToStderr", "logOptions", "socketDir"}
    | {"daemonSocketDir", "cniConf", "cniConfigDir", "multusConfigFile", "multusAutoconfigDir"}
)
_warned: set[str] = set()
_MAX_WARNED = 256
forget_warned = _warned.clear  # lets `warn` log every warning again
_CLUSTER_NETWORK = Thing("key", "clusterNetwork")
KNOWN = frozenset(MetaConfig.__struct_encode_fields__) | _SPECIFICATION_KEYS
_ANY_CASE = KNOWN | _IGNORED_MULTUS_KEYS


def load(raw: dict[str, Any]) -> MetaConfig:
    """Check a configuration that was read from standard input.

    Raises Error(INVALID_CONFIG) that names the key. With type "wirespeed", an unknown key is an error. Any other
    type is a Multus configuration: its keys are case-insensitive, and unknown ones are only logged as a warning.
    """
    folded = normalize_case(raw, _ANY_CASE)
    own = folded.get("type", OWN_TYPE) == OWN_TYPE
    raw = raw if own else folded
    where = Thing("configuration", str(raw.get("name", "")))
    for key in raw:
        if key not in KNOWN:
            if own:
                raise unknown_key(key, KNOWN).within(where)
            if key not in _IGNORED_MULTUS_KEYS:
                warn(unknown_key(key, KNOWN, what="it has no effect").within(where))
    # Multus configurations contain null for keys that are not set.
    given = {key: value for key, value in raw.items() if value is not None}
    if not own:
        given.setdefault("lenientCapabilities", list(CAPABILITIES))
    with errors.within(where):
        config = structs.read(given, MetaConfig)
        _check(config, own=own)
    return config


def _check(config: MetaConfig, *, own: bool) -> None:
    if not config.cluster_network and not config.delegates:
        wanted = 'it, or the key "delegates", for the network of the primary CNI plugin'
        raise Error(Kind.INVALID_CONFIG, key="clusterNetwork", missing=True, expected=wanted)
    if config.cluster_network and config.delegates:
        _refuse("delegates", 'it must not be combined with "clusterNetwork"', config, own=own)
    if config.default_networks and not config.cluster_network:
        _refuse("defaultNetworks", 'it needs the key "clusterNetwork"', config, own=own)
    if config.auxiliary_cni_chain_name:
        _check_auxiliary(config)
    if config.kubeconfig:
        what = "it has no effect: the agent accesses the cluster by its own configuration"
        warn(Error(Kind.UNSUPPORTED, what, where=config.where, key="kubeconfig"))
    for key, folder in (("confDir", config.conf_dir), ("binDir", config.bin_dir)):
        if not folder.startswith("/"):
            raise Error(Kind.INVALID_CONFIG, key=key, expected="an absolute path", got=folder)


def _refuse(key: str, what: str, config: MetaConfig, *, own: bool) -> None:
    """Refuse a key that depends on clusterNetwork; in a configuration of Multus, warn that it has no effect."""
    fault = Error(Kind.INVALID_CONFIG, what, key=key, about=[_CLUSTER_NETWORK])
    if own:
        raise fault
    warn(fault.within(config.where).with_hint("it has no effect"))


def _check_auxiliary(config: MetaConfig) -> None:
    with errors.within('key "auxiliaryCNIChainName"'):
        check_network_name(config.auxiliary_cni_chain_name)
    if "/" not in config.cluster_network:
        raise Error(
            Kind.INVALID_CONFIG,
            "the directory of the chain lies beside the file of the cluster's network",
            key="auxiliaryCNIChainName",
            expected='a path in the key "clusterNetwork"',
            about=[_CLUSTER_NETWORK],
        )


def warn(fault: Error) -> None:
    """Log a warning only once per text: the same configuration comes with every request."""
    if str(fault) not in _warned:
        if len(_warned) >= _MAX_WARNED:
            _warned.clear()
        _warned.add(str(fault))
        log.warning("%s", fault)  # `wirespeed check` reads the Error from the record
