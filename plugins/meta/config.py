"""The meta-plugin's configuration: its keys and their checks. A Multus configuration is accepted unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import in_any_case
from wirespeed.cni.request import check_network_name

log = logging.getLogger(__name__)

OWN_TYPE = "wirespeed"

Capability = Literal["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"]  # what the annotation can ask for
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


@structs.prepared
class MetaConfig(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys that the meta-plugin reads; those that the CNI specification has for every plugin come first."""

    type: str = OWN_TYPE
    name: str = ""
    cni_version: str = ""
    capabilities: dict[str, bool] = {}  # what the runtime should pass in runtimeConfig
    runtime_config: dict[str, Any] = {}  # from the runtime; passed to the master only

    # The master creates the interface CNI_IFNAME, and its result is returned to the runtime. Either clusterNetwork
    # names it: a NetworkAttachmentDefinition (in multusNamespace), a network in confDir, or the path of a file or
    # folder.
    cluster_network: str = ""
    # Or it is one of these inline configurations: the one with "masterplugin": true, else the first.
    delegates: list[dict[str, Any]] = []

    # More networks for each pod, attached before those of its annotation; named like clusterNetwork.
    default_networks: list[str] = []
    # Namespaces whose pods get no defaultNetworks.
    system_namespaces: list[str] = msgspec.field(default_factory=lambda: ["kube-system"])
    # Where the NetworkAttachmentDefinitions of clusterNetwork and defaultNetworks are.
    multus_namespace: str = "kube-system"

    # A pod may use networks of its own namespace and of globalNamespaces only.
    namespace_isolation: bool = False
    # Comma-separated list; if set, it replaces the default list "default".
    global_namespaces: str | None = None

    # An additional plugin chain for each pod: all *.conf files in the folder of this name beside the file of
    # clusterNetwork. It runs last, on the master's interface.
    auxiliary_cni_chain_name: str = msgspec.field(name="auxiliaryCNIChainName", default="")
    # The number of the first interface after the master's: 1 is net1.
    first_interface: Annotated[int, msgspec.Meta(ge=0, le=9999)] = 1
    # Capabilities that pods may request even if no plugin of the network has them. Addresses and a MAC are then
    # passed in CNI_ARGS; the others have no effect. The default in a Multus configuration is all of them, because
    # Multus lets pods request anything.
    lenient_capabilities: list[Capability] = []

    conf_dir: str = "/etc/cni/multus/net.d"  # network configurations that are found by their name
    bin_dir: str = "/opt/cni/bin"  # searched for plugins before CNI_PATH
    kubeconfig: str = ""  # ignored with a warning: the agent has its own

    def for_later(self) -> dict[str, Any]:
        """The keys that hotplug needs later: what networks a pod may have, and where to find them."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key in _FOR_LATER}

    @property
    def exempt_namespaces(self) -> frozenset[str]:
        """The namespaces whose networks every pod may use."""
        listed = "default" if self.global_namespaces is None else self.global_namespaces
        return frozenset(part.strip() for part in listed.split(",") if part.strip())


_FOR_LATER = frozenset(
    {"name", "cniVersion", "namespaceIsolation", "globalNamespaces", "firstInterface", "lenientCapabilities"}
    | {"confDir", "binDir"}
)
# Keys of the CNI specification for other plugins or for the runtime; accepted without effect here.
_SPECIFIED = frozenset(
    {"args", "ipam", "dns", "prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"}
    | {"cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
)
# Keys of Multus that are not needed here: state is in the journal, the agent does the logging.
_NEEDLESS = frozenset(
    {"cniDir", "retryDeleteOnError", "logFile", "logLevel", "logToStderr", "logOptions", "socketDir"}
    | {"daemonSocketDir", "cniConf", "cniConfigDir", "multusConfigFile", "multusAutoconfigDir"}
)
KNOWN = frozenset(MetaConfig.__struct_encode_fields__) | _SPECIFIED
_ANY_CASE = KNOWN | _NEEDLESS


def load(raw: dict[str, Any]) -> MetaConfig:
    """Check a configuration that was read from standard input.

    Raises CniError(INVALID_CONFIG) that names the key. With type "wirespeed", an unknown key is an error. Any other
    type is a Multus configuration: its keys are case-insensitive, and unknown ones are only logged as a warning.
    """
    folded = in_any_case(raw, _ANY_CASE)
    own = folded.get("type", OWN_TYPE) == OWN_TYPE
    raw = raw if own else folded
    for key in raw:
        if key not in KNOWN:
            if own:
                raise CniError(Code.INVALID_CONFIG, f"configuration {_name(raw)}: {unknown(key, KNOWN)}")
            if key not in _NEEDLESS:
                warn(f"configuration {_name(raw)}: {unknown(key, KNOWN)}; it has no effect")
    # Multus configurations contain null for keys that are not set.
    given = {key: value for key, value in raw.items() if value is not None}
    if not own:
        given.setdefault("lenientCapabilities", list(CAPABILITIES))
    try:
        config = msgspec.convert(given, MetaConfig)
    except msgspec.ValidationError as error:
        from wirespeed.structs import fault  # noqa: PLC0415 — only for a mistake

        text = f"configuration {_name(raw)}: {fault(error, MetaConfig)}"
        raise CniError(Code.INVALID_CONFIG, text) from error
    _check(config, own=own)
    return config


def _check(config: MetaConfig, *, own: bool) -> None:
    where = f"configuration {config.name}"
    if not config.cluster_network and not config.delegates:
        raise CniError(
            Code.INVALID_CONFIG, f'{where}: one of the keys "clusterNetwork" and "delegates" must name the master'
        )
    if config.cluster_network and config.delegates:
        text = f'{where}: of the keys "clusterNetwork" and "delegates" only one may be given'
        if own:
            raise CniError(Code.INVALID_CONFIG, text)
        warn(f'{text}; "delegates" has no effect')
    if config.default_networks and not config.cluster_network:
        text = f'{where}: key "defaultNetworks" needs the key "clusterNetwork"'
        if own:
            raise CniError(Code.INVALID_CONFIG, text)
        warn(f"{text}; it has no effect")
    if config.auxiliary_cni_chain_name:
        _check_auxiliary(where, config)
    if config.kubeconfig:
        warn(f'{where}: key "kubeconfig": the agent reads the cluster by its own configuration')
    for key, folder in (("confDir", config.conf_dir), ("binDir", config.bin_dir)):
        if not folder.startswith("/"):
            raise CniError(Code.INVALID_CONFIG, f'{where}: key "{key}": expected an absolute path, got {folder!r}')


def _check_auxiliary(where: str, config: MetaConfig) -> None:
    where = f'{where}: key "auxiliaryCNIChainName"'
    try:
        check_network_name(config.auxiliary_cni_chain_name)
    except CniError as error:
        raise error.prefixed(where) from None
    if "/" not in config.cluster_network:
        raise CniError(
            Code.INVALID_CONFIG,
            f'{where}: needs a path in the key "clusterNetwork": the chain\'s folder lies beside that file',
        )


def _name(raw: dict[str, Any]) -> str:
    return str(raw.get("name", ""))


def unknown(key: object, known: Iterable[str]) -> str:
    """Return the message for an unknown key: its name and the nearest known key."""
    import difflib  # noqa: PLC0415 — only for a mistake

    by_fold = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(str(key).lower(), by_fold, 1)
    return f"unknown key {str(key)[:64]!r}" + (f"; the nearest known is {by_fold[near[0]]!r}" if near else "")


@lru_cache(maxsize=256)
def warn(text: str) -> None:
    """Log a warning only once per text: the same configuration comes with every request."""
    log.warning("%s", text)
