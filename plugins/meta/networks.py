"""Reads network configurations: from a NetworkAttachmentDefinition, a file, or inline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirespeed.cni.chain import canonical, flag
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import check_network_name
from wirespeed.cni.versions import SUPPORTED, check
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.plugins.meta.config import MetaConfig

RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"

_SUFFIXES = (".conflist", ".conf", ".json")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network: its conf or conflist `raw`, with the name filled in.

    `label` is its name in network-status: "namespace/name" of the NetworkAttachmentDefinition, else the
    configuration's name. `resource` is the resource whose devices it attaches, "" for none. An `auxiliary` network
    creates no interface.
    """

    label: str
    raw: dict[str, Any]
    resource: str = ""
    master: bool = False
    auxiliary: bool = False


def definition(cluster: Cluster, namespace: str, name: str, *, conf_dir: str) -> Source:
    """Return the network of a NetworkAttachmentDefinition.

    Its configuration is spec.config, or if that is empty the configuration of that name in `conf_dir`
    (multi-net-spec v1.3, 3.4.1). Raises NotFoundError, UnavailableError, CniError(INVALID_CONFIG).
    """
    nad = cluster.network(namespace, name)
    label = f"{namespace}/{name}"
    try:
        raw = _configuration(nad, name, conf_dir)
    except CniError as error:
        raise error.prefixed(f"NetworkAttachmentDefinition {label}") from error
    # Not checked for a domain: the resource of a DRA driver may have none.
    resource = str((nad["metadata"].get("annotations") or {}).get(RESOURCE_NAME) or "")
    return Source(label=label, raw=_with_name(raw, name), resource=resource)


def _configuration(nad: dict[str, Any], name: str, conf_dir: str) -> dict[str, Any]:
    text = (nad.get("spec") or {}).get("config") or ""
    if not isinstance(text, str):
        raise CniError(Code.INVALID_CONFIG, f"spec.config: expected a string, got {type(text).__name__}")
    return _decoded(text, "spec.config") if text.strip() else by_name(conf_dir, name).raw


def cluster_network(value: str, *, config: MetaConfig, cluster: Callable[[], Cluster]) -> Source:
    """Return the network named by clusterNetwork or by an entry of defaultNetworks.

    A value with a "/" is the path of a configuration file, or of a folder whose first file is used; a conflist file
    is completed by `with_folder`. Any other value is a NetworkAttachmentDefinition in multusNamespace, else a
    configuration of that name in confDir. Raises UnavailableError, CniError(INVALID_CONFIG).
    """
    if "/" in value:
        return _by_path(Path(value))
    problem: CniError
    try:
        known = cluster()
    except CniError as error:  # no usable cluster, e.g. a runtime without Kubernetes
        problem = error
    else:
        try:
            return definition(known, config.multus_namespace, value, conf_dir=config.conf_dir)
        except NotFoundError as error:  # for an invalid definition there is no fallback to confDir
            problem = error
    try:
        return by_name(config.conf_dir, value)
    except CniError as error:
        raise CniError(error.code, f"{problem.msg}; {error.msg}") from problem


def inline(delegates: list[dict[str, Any]]) -> list[Source]:
    """Return the networks of the key "delegates". The master is the one with "masterplugin": true, else the first.

    Raises CniError(INVALID_CONFIG).
    """
    marked = []
    delegates = [canonical(raw) for raw in delegates]
    for number, raw in enumerate(delegates):
        mark = raw.get("masterplugin", False)
        if not isinstance(mark, bool):
            raise CniError(
                Code.INVALID_CONFIG,
                f'delegates[{number}]: key "masterplugin": expected true or false, got {mark!r}',
            )
        if not isinstance(raw.get("name"), str) or not raw["name"]:
            raise CniError(Code.INVALID_CONFIG, f'delegates[{number}]: key "name" is missing')
        if mark:
            marked.append(number)
    if len(marked) > 1:
        both = " and ".join(f"delegates[{number}]" for number in marked)
        raise CniError(Code.INVALID_CONFIG, f'{both}: only one may have the key "masterplugin" true')
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

    Raises CniError(INVALID_CONFIG) that also lists unreadable files, because the network may be in one of them.
    """
    problems = []
    for path in sorted(_files(Path(folder)), key=lambda p: (_SUFFIXES.index(p.suffix) > 0, p.name)):
        try:
            raw = _load(path)
        except CniError as error:
            problems.append(error.msg)
            continue
        if raw.get("name") == name:
            return Source(label=name, raw=raw)
    raise CniError(
        Code.INVALID_CONFIG, "; ".join([f"no configuration in {folder} has the name {name!r}", *problems])
    )


def _by_path(path: Path) -> Source:
    if path.is_dir():
        files = sorted(_files(path))
        if not files:
            raise CniError(Code.INVALID_CONFIG, f"{path}: expected a file *{', *'.join(_SUFFIXES)} in that folder")
        path = files[0]
    raw = with_folder(path, _load(path))
    if not isinstance(raw.get("name"), str) or not raw["name"]:
        raise CniError(Code.INVALID_CONFIG, f'{path}: key "name" is missing')
    return Source(label=raw["name"], raw=raw)


def with_folder(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Append to the conflist of the file `path` the plugins in the folder beside it that has the network's name.

    Each *.conf file there is one plugin, in the order of the file names. With "loadOnlyInlinedPlugins" the list
    stays as it is (specification 1.1.0, "Configuration format"). Raises CniError(INVALID_CONFIG) that names the
    file.
    """
    if path.suffix != ".conflist" or not isinstance(raw.get("name"), str):
        return raw
    try:
        if flag(raw, "loadOnlyInlinedPlugins"):
            return raw
        folder = path.parent / check_network_name(raw["name"])
    except CniError as error:
        raise error.prefixed(str(path)) from error
    appended, inline = _plugins_in(folder), raw.get("plugins") or []
    # An invalid list is left to `load_network`, which reports it.
    return {**raw, "plugins": [*inline, *appended]} if appended and isinstance(inline, list) else raw


def auxiliary(config: MetaConfig) -> Source | None:
    """Return the chain of the key auxiliaryCNIChainName; None if the key is not set or its folder is empty.

    Its cniVersion is the oldest one in its files and in `config`: a plugin that supports only an older version
    would refuse the runtime's 1.1.0. Raises CniError(INVALID_CONFIG) that names the file.
    """
    name, master = config.auxiliary_cni_chain_name, Path(config.cluster_network)
    if not name:
        return None
    plugins = _plugins_in((master if master.is_dir() else master.parent) / name)
    named = [plugin["cniVersion"] for plugin in plugins if plugin.get("cniVersion") in SUPPORTED]
    spoken = min([check(config.cni_version), *named], key=SUPPORTED.index)
    raw = {"cniVersion": spoken, "name": name, "plugins": plugins}
    return Source(label=name, raw=raw, auxiliary=True) if plugins else None


def _plugins_in(folder: Path) -> list[dict[str, Any]]:
    plugins = []
    for path in sorted(path for path in _files(folder) if path.suffix == ".conf"):
        plugin = _load(path)
        if not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise CniError(Code.INVALID_CONFIG, f'{path}: key "type" is missing')
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
        raise CniError(Code.INVALID_CONFIG, f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return _decoded(text, str(path))


def _decoded(text: str, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.INVALID_CONFIG, f"{where}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CniError(Code.INVALID_CONFIG, f"{where}: expected a JSON object, got {type(raw).__name__}")
    return canonical(raw)


def _with_name(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration with its name, by default `name` (multi-net-spec v1.3, 3.4.2)."""
    return raw if raw.get("name") else {**raw, "name": name}
