"""Reads network configurations: from a NetworkAttachmentDefinition, a file, or inline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirespeed import errors
from wirespeed.cni.chain import canonical, flag
from wirespeed.cni.request import check_network_name
from wirespeed.cni.versions import SUPPORTED, check
from wirespeed.errors import CombinedError, Error, Kind, Thing
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.meta.selection import Selection

RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"

_SUFFIXES = (".conflist", ".conf", ".json")
_NO_REQUESTS = Selection(namespace="", name="")  # for a network that the configuration names


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network: its conf or conflist `raw`, with the name filled in.

    `label` is its name in network-status: "namespace/name" of the NetworkAttachmentDefinition, else the
    configuration's name. It attaches devices of `resource`, "" for none. If `auxiliary`, it creates no interface.
    `asked` are the pod's requests for it; the pod `selected` it by its networks annotation.
    """

    label: str
    raw: dict[str, Any]
    resource: str = ""
    master: bool = False
    auxiliary: bool = False
    asked: Selection = _NO_REQUESTS
    selected: bool = False

    @property
    def where(self) -> Thing:
        return Thing("network", self.label)


def definition(cluster: Cluster, namespace: str, name: str, *, conf_dir: str) -> Source:
    """Return the network of a NetworkAttachmentDefinition.

    Its configuration is spec.config, or if that is empty the configuration of that name in `conf_dir`
    (multi-net-spec v1.3, 3.4.1). Raises NotFoundError, UnavailableError, Error(INVALID_CONFIG).
    """
    nad = cluster.network(namespace, name)
    label = f"{namespace}/{name}"
    with errors.within(Thing("NetworkAttachmentDefinition", label)):
        raw = _configuration(nad, name, conf_dir)
    # Not checked for a domain: the resource of a DRA driver may have none.
    resource = str((nad["metadata"].get("annotations") or {}).get(RESOURCE_NAME) or "")
    named = raw if raw.get("name") else {**raw, "name": name}  # multi-net-spec v1.3, 3.4.2
    return Source(label=label, raw=named, resource=resource)


def _configuration(nad: dict[str, Any], name: str, conf_dir: str) -> dict[str, Any]:
    text = (nad.get("spec") or {}).get("config") or ""
    if not isinstance(text, str):
        raise Error(Kind.INVALID_CONFIG, key="spec.config", expected="a string", got=text)
    if not text.strip():
        return by_name(conf_dir, name).raw
    with errors.under("spec", "config"):
        return _decode_json(text)


def cluster_network(value: str, *, config: MetaConfig, cluster: Callable[[], Cluster]) -> Source:
    """Return the network named by clusterNetwork or by an entry of defaultNetworks.

    A value with a "/" is the path of a configuration file, or of a folder whose first file is used; a conflist file
    is completed by `with_plugin_folder`. Any other value is a NetworkAttachmentDefinition in multusNamespace, else
    a configuration of that name in confDir. Raises UnavailableError, Error(INVALID_CONFIG).
    """
    if "/" in value:
        return _by_path(Path(value))
    problem: Error
    try:
        known = cluster()
    except Error as error:  # no usable cluster, e.g. a runtime without Kubernetes
        problem = error
    else:
        try:
            return definition(known, config.multus_namespace, value, conf_dir=config.conf_dir)
        except NotFoundError as error:  # for an invalid definition there is no fallback to confDir
            problem = error
    try:
        return by_name(config.conf_dir, value)
    except Error as error:
        raise CombinedError([problem, error], between="; ").of_kind(error.kind) from problem


def inline(delegates: list[dict[str, Any]]) -> list[Source]:
    """Return the networks of the key "delegates", one marked as master. Raises Error(INVALID_CONFIG)."""
    delegates = [canonical(raw) for raw in delegates]
    for number, raw in enumerate(delegates):
        mark = raw.get("masterplugin", False)
        if not isinstance(mark, bool):
            raise Error(Kind.INVALID_CONFIG, key=(number, "masterplugin"), expected="true or false", got=mark)
        if not isinstance(raw.get("name"), str) or not raw["name"]:
            raise Error(Kind.INVALID_CONFIG, key=(number, "name"), missing=True)
    marked = [number for number, raw in enumerate(delegates) if raw.get("masterplugin")]
    if len(marked) > 1:
        first, second, *_ = marked
        raise Error(
            Kind.INVALID_CONFIG,
            f"only one may be true, and that of delegates[{first}] already is",
            key=(second, "masterplugin"),
        )
    master = marked[0] if marked else 0
    return [
        Source(
            label=raw["name"],
            raw={key: value for key, value in raw.items() if key != "masterplugin"},
            master=number == master,
        )
        for number, raw in enumerate(delegates)
    ]


def by_name(folder: str, name: str) -> Source:
    """Return the configuration in `folder` whose key "name" is `name`; conflists are preferred over confs.

    Raises Error(INVALID_CONFIG) that also lists unreadable files, because the network may be in one of them.
    """
    problems: list[Error] = []
    for path in sorted(_files(Path(folder)), key=lambda p: (_SUFFIXES.index(p.suffix) > 0, p.name)):
        try:
            raw = _load(path)
        except Error as error:
            problems.append(error)
            continue
        if raw.get("name") == name:
            return Source(label=name, raw=raw)
    unknown = Error(Kind.INVALID_CONFIG, f"no configuration in {folder} has the name {name!r}")
    raise CombinedError([unknown, *problems], between="; ")


def _by_path(path: Path) -> Source:
    if path.is_dir():
        files = sorted(_files(path))
        if not files:
            raise Error(
                Kind.INVALID_CONFIG, where=str(path), expected=f"a file *{', *'.join(_SUFFIXES)} in that directory"
            )
        path = files[0]
    raw = with_plugin_folder(path, _load(path))
    if not isinstance(raw.get("name"), str) or not raw["name"]:
        raise Error(Kind.INVALID_CONFIG, where=str(path), key="name", missing=True)
    return Source(label=raw["name"], raw=raw)


def with_plugin_folder(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Append to the conflist of the file `path` the plugins in the folder beside it that has the network's name.

    Each *.conf file there is one plugin, in the order of the file names. With "loadOnlyInlinedPlugins" the list
    stays as it is (specification 1.1.0, "Configuration format"). Raises Error(INVALID_CONFIG), with the file.
    """
    if path.suffix != ".conflist" or not isinstance(raw.get("name"), str):
        return raw
    with errors.within(str(path)):
        if flag(raw, "loadOnlyInlinedPlugins"):
            return raw
        folder = path.parent / check_network_name(raw["name"])
    appended, inline = _plugins_in(folder), raw.get("plugins") or []
    # An invalid list is left to `load_network`, which reports it.
    return {**raw, "plugins": [*inline, *appended]} if appended and isinstance(inline, list) else raw


def auxiliary(config: MetaConfig) -> Source | None:
    """Return the chain of the key auxiliaryCNIChainName; None if the key is not set or its folder is empty.

    Its cniVersion is the oldest one in its files and in `config`: a plugin that supports only an older version
    would refuse the runtime's 1.1.0. Raises Error(INVALID_CONFIG) that names the file.
    """
    name, master = config.auxiliary_cni_chain_name, Path(config.cluster_network)
    if not name:
        return None
    plugins = _plugins_in((master if master.is_dir() else master.parent) / name)
    named = [plugin["cniVersion"] for plugin in plugins if plugin.get("cniVersion") in SUPPORTED]
    version = min([check(config.cni_version), *named], key=SUPPORTED.index)
    raw = {"cniVersion": version, "name": name, "plugins": plugins}
    return Source(label=name, raw=raw, auxiliary=True) if plugins else None


def _plugins_in(folder: Path) -> list[dict[str, Any]]:
    plugins = []
    for path in sorted(path for path in _files(folder) if path.suffix == ".conf"):
        plugin = _load(path)
        if not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise Error(Kind.INVALID_CONFIG, where=str(path), key="type", missing=True)
        plugins.append(plugin)
    return plugins


def _files(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(_SUFFIXES)]
    except OSError:
        return []


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(Kind.INVALID_CONFIG, getattr(error, "strerror", None) or str(error), where=str(path)) from error
    with errors.within(str(path)):
        return _decode_json(text)


def _decode_json(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Error(Kind.INVALID_CONFIG, expected="a JSON object", got=raw)
    return canonical(raw)
