"""Reading Multus' configurations (its daemon's and its CNI configuration), and translating them to our keys."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirespeed.cni import versions
from wirespeed.cni.chain import canonical, load_network
from wirespeed.errors import Error, Kind, as_error
from wirespeed.keys import normalize_case, unknown_key
from wirespeed.plugins.meta.config import CAPABILITIES
from wirespeed.takeover.record import PEERS

NETWORK_NAME = "multus-cni-network"  # the name of Multus' network
CNI_DIR = "/var/lib/cni/multus"  # the default folder of its state


@dataclass
class Translation:
    """The agent's configuration as a document (`wirespeed.node.NodeConfig`), and warnings about what has no effect.

    `cni_dir` is where Multus keeps its state ("": its default, CNI_DIR), `bin_dir` where it looks for plugins first
    ("" for nowhere).
    """

    document: dict[str, Any] = field(default_factory=dict)
    warnings: list[Error] = field(default_factory=list)
    cni_dir: str = ""
    bin_dir: str = ""

    def warn(self, key: str, text: str, *, hint: str = "") -> None:
        self.warnings.append(Error(Kind.UNSUPPORTED, text, key=(key,), hint=hint))


# Keys that the meta-plugin has with the same name and meaning.
_META = (
    *("clusterNetwork", "defaultNetworks", "systemNamespaces", "multusNamespace", "namespaceIsolation"),
    *("globalNamespaces", "confDir", "binDir", "capabilities", "auxiliaryCNIChainName"),
)
# The daemon's keys for the paths of configurations, and the keys of `autoconf` that correspond to them.
_AUTOCONF = {"cniConfigDir": "cniConfigDir", "multusAutoconfigDir": "primaryDir", "multusMasterCNI": "primary"}
_PATHS = frozenset(
    {"confDir", "binDir", "cniDir", "cniConfigDir", "multusAutoconfigDir", "readinessindicatorfile", "kubeconfig"}
)
# Keys without a counterpart here, and why they need none.
NEEDLESS = {
    "type": "the name under which the shim is called selects the plugin",
    **dict.fromkeys(("socketDir", "daemonSocketDir"), "the agent's socket is its own key, and the shim knows it"),
    "chrootDir": "plugins run where the agent runs, with the node's folders mounted under their own paths",
    **dict.fromkeys(("logFile", "logToStderr", "logOptions"), "the agent logs to standard error"),
    "logLevel": "the agent's option --log-level",
    "retryDeleteOnError": "always so: what a DEL could not undo is kept until one can",
    "forceCNIVersion": "results are converted between versions, so the primary's file is not changed",
    **dict.fromkeys(("prevResult", "runtimeConfig", "cni.dev/valid-attachments"), "it comes with each request"),
    **dict.fromkeys(("ipam", "dns"), "no meaning for a meta-plugin"),
    **dict.fromkeys(
        ("defaultnetworkfile", "defaultnetworkwaitseconds"),
        "of an early version of Multus, which does not read it any more",
    ),
    "cniConf": "written by Multus' entry point, never read",
}
# Keys whose effect is lost, and what to do instead.
_UNSUPPORTED = {
    "perNodeCertificate": "give the agent a kubeconfig, or the service account of its DaemonSet",
    "metricsPort": "the agent serves metrics at the address and port of its own key metrics",
    "enablePprof": "a Python process has no pprof",
}
# Keys that the functions below read.
_READ_HERE = frozenset(
    {"name", "overrideNetworkName", "cniVersion", "cniDir", "kubeconfig", "readinessindicatorfile"}
    | {"connectionLimit", "multusConfigFile", "delegates"}
)
KEYS = frozenset({*_META, *_AUTOCONF, *NEEDLESS, *_UNSUPPORTED, *_READ_HERE})


@dataclass(frozen=True)
class RuntimeConf:
    """The CNI configuration by which the runtime calls Multus."""

    path: Path
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw.get("name") or NETWORK_NAME)


def find(folder: Path) -> RuntimeConf | None:
    """Return the first configuration of Multus. Raises Error if one named *multus* cannot be read."""
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix not in {".conf", ".conflist", ".json"}:
            continue
        try:
            raw = json.loads(path.read_bytes())
            kinds = load_network(raw, name=path.stem, version=versions.LATEST).kinds
        except (ValueError, RecursionError, Error) as error:
            if "multus" not in path.name:
                continue
            fault = error if isinstance(error, Error) else Error(Kind.INVALID_CONFIG, f"not JSON: {error}")
            raise fault.within(str(path)) from error
        if kinds[0] in PEERS["multus"]:
            return RuntimeConf(path, canonical(raw))
    return None


def read_daemon(path: Path) -> dict[str, Any]:
    """Read the daemon's configuration. Raises Error: IO, INVALID_CONFIG if it is not a JSON object."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise as_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}", where=str(path)) from error
    if not isinstance(raw, dict):
        raise Error(Kind.INVALID_CONFIG, where=str(path), expected="a JSON object", got=raw)
    return raw


def own_keys(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return Multus' part of a conf or conflist as one object, without capabilities: those are the primary's."""
    plugins = configuration.get("plugins") or [configuration]
    head = {key: configuration[key] for key in ("name", "cniVersion") if key in configuration}
    return {key: value for key, value in {**plugins[0], **head}.items() if key != "capabilities"}


def translate(raw: Mapping[str, Any]) -> Translation:
    """Translate the daemon's configuration, Multus' part of a CNI configuration (`own_keys`), or both merged.

    Keys are case-insensitive, as in Multus. Paths below /host, or below the daemon's chrootDir, become paths on the
    node. There is a warning for each key whose effect is lost, and for each unknown key.
    """
    raw = normalize_case(raw, KEYS)
    given = {key: _node_path(key, value, raw) for key, value in raw.items() if value is not None}
    found = Translation(cni_dir=str(given.get("cniDir") or ""), bin_dir=str(given.get("binDir") or ""))
    for key in given:
        if key in _UNSUPPORTED:
            found.warn(key, f"it has no effect here: {_UNSUPPORTED[key]}")
        elif key not in KEYS:
            found.warnings.append(unknown_key(key, KEYS, what="it has no effect"))
    _node_keys(given, found)
    if _is_generated(given, found):
        found.document["autoconf"] = _autoconf(given, found)
    return found


def _node_path(key: str, value: Any, raw: Mapping[str, Any]) -> Any:
    """Convert a path in Multus' container to one on the node; return any other value unchanged."""
    if key not in _PATHS or not isinstance(value, str):
        return value
    path = posixpath.normpath(value) if value else value
    for prefix in (str(raw.get("chrootDir") or "/hostroot"), "/hostroot", "/host"):
        if path.startswith(prefix.rstrip("/") + "/"):
            return path.removeprefix(prefix.rstrip("/"))
    return path


def _node_keys(given: Mapping[str, Any], found: Translation) -> None:
    if given.get("kubeconfig"):
        found.document["cluster"] = {"kubeconfig": given["kubeconfig"]}
    if given.get("readinessindicatorfile"):
        found.document["readinessIndicatorFile"] = given["readinessindicatorfile"]
    limit = given.get("connectionLimit")
    if isinstance(limit, int) and limit > 0:
        found.document["workers"] = min(limit, 1024)


def _is_generated(given: Mapping[str, Any], found: Translation) -> bool:
    """Whether Multus generates the runtime's configuration from the primary's; a handwritten one stays."""
    file = given.get("multusConfigFile") or "auto"
    if file != "auto":
        text = f"the agent then does not write the runtime's configuration: put {file} in its place"
        found.warn("multusConfigFile", text)
        return False
    delegates = given.get("delegates") or []
    if isinstance(delegates, list) and len(delegates) > 1 and not given.get("clusterNetwork"):
        text = f"it has {len(delegates)} networks, so this configuration stays and does not follow the primary's"
        found.warn("delegates", text, hint="name the others in defaultNetworks if it should")
        return False
    return True


def _autoconf(given: Mapping[str, Any], found: Translation) -> dict[str, Any]:
    autoconf = {ours: given[key] for key, ours in _AUTOCONF.items() if given.get(key)}
    if autoconf.get("primaryDir") == autoconf.get("cniConfigDir", "/etc/cni/net.d"):
        autoconf.pop("primaryDir", None)
    if not given.get("overrideNetworkName"):
        autoconf["networkName"] = given.get("name") or NETWORK_NAME
    version = given.get("cniVersion")
    if version in versions.SUPPORTED:
        autoconf["cniVersion"] = version
    elif version:
        found.warn(
            "cniVersion", f"{version!r} is not supported: the version of the primary's configuration is used"
        )
    meta = {key: given[key] for key in _META if key in given}
    # Multus refuses no request of a pod for lack of a capability: it also passes address and MAC in CNI_ARGS.
    meta["lenientCapabilities"] = list(CAPABILITIES)
    if "/" in str(meta.get("clusterNetwork", "")):  # the primary's file, which autoconf finds by the same rule
        del meta["clusterNetwork"]
    autoconf["meta"] = meta
    return autoconf
