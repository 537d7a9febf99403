"""The runtime's CNI configuration, generated from that of the primary CNI plugin."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirespeed import structs
from wirespeed.cni import versions
from wirespeed.cni.chain import Network, canonical, load_network
from wirespeed.errors import Error, Kind, as_error, under
from wirespeed.node import ALIASES, AutoconfConfig, NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import networks

_SUFFIXES = (".conf", ".conflist", ".json")  # what runtimes read
# Generated here, or part of each request.
_RESERVED = ("type", "name", "cniVersion", "delegates", "runtimeConfig", "prevResult")


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The network of the primary CNI plugin, and the file that it was read from."""

    path: Path
    network: Network


def read_config(document: object) -> NodeConfig:
    """Convert the agent's configuration, and check `autoconf` in it. Raises Error(INVALID_CONFIG)."""
    config = structs.read(document, NodeConfig)
    if config.autoconf is not None:
        check(config.autoconf)
    return config


def check(where: AutoconfConfig) -> None:
    """Check the configuration `autoconf`. Raises Error(INVALID_CONFIG)."""
    with under("autoconf"):
        if not where.files:
            raise _invalid("files", "at least one file name", [])
        for index, name in enumerate(where.files):
            if not name.endswith((".conf", ".conflist")) or "/" in name or name.startswith("."):
                raise _invalid(f"files[{index}]", "the name of a file *.conflist or *.conf", name)
        for key, folder in (("cniConfigDir", where.cni_config_dir), ("primaryDir", where.primary_dir or "/")):
            if not folder.startswith("/"):
                raise _invalid(key, "an absolute path", folder)
        if "/" in where.primary or where.primary in where.files:
            raise _invalid("primary", "the name of a file in primaryDir that is not in files", where.primary)
        if where.cni_version:
            versions.check(where.cni_version)
        with under("meta"):
            _check_meta(where)


def _check_meta(where: AutoconfConfig) -> None:
    for key in _RESERVED:
        if key in where.meta:
            raise Error(Kind.INVALID_CONFIG, "must not be set here: it is generated", key=key)
    try:
        meta_config.load(_plugin(Path("/"), {}, where) | {"name": "primary"})
    except Error as error:
        raise error.at(where=error.where[1:]) from error  # without the name, which is a placeholder


def find_primary(where: AutoconfConfig) -> Primary | None:
    """Return the configured primary, else the network that the runtime would use without our files.

    None if there is no such file yet. Raises Error that names the file if it cannot be read, as it may be only
    partly written. The next file is not used instead, as pods would then get another network.
    """
    folder = Path(where.primary_dir or where.cni_config_dir)
    for name in [where.primary] if where.primary else _candidates(folder, where):
        network = _read(folder / name)
        if network is not None and (where.primary or not _cannot_be_primary(network)):
            return Primary(path=folder / name, network=network)
    return None


def _candidates(folder: Path, where: AutoconfConfig) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise as_error(error, folder) from error
    return [name for name in names if name.endswith(_SUFFIXES) and name not in where.files]


def _read(path: Path) -> Network | None:
    try:
        raw = json.loads(path.read_bytes())
        return load_network(networks.with_plugin_folder(path, canonical(raw)) if isinstance(raw, dict) else raw)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}", where=str(path)) from error
    except Error as error:
        raise error.within(str(path)) from error


def _cannot_be_primary(network: Network) -> bool:
    """Whether it cannot be the primary's network: it is that of a meta-plugin (ours or Multus), or of loopback."""
    return ALIASES.get(network.kinds[0]) == "meta" or network.kinds == ["loopback"]


def compose(primary: Primary, where: AutoconfConfig, file: str) -> bytes:
    """Return the content of the file `file`.

    clusterNetwork is the path of the primary's file, so changes of that file apply from the next pod on, without a
    reload by the runtime. The version is that of the primary's file, which the runtime must support. A runtime that
    knows "cniVersions" (specification 1.1.0) uses the newest version in it, and so STATUS and GC, whatever the
    primary's version.
    """
    raw = primary.network.raw
    supported = _versions(raw, where)
    head: dict[str, Any] = {"cniVersion": supported[0], "name": where.network_name or primary.network.name}
    plugin = _plugin(primary.path, _capabilities(primary.network), where)
    if file.endswith(".conflist"):
        if len(supported) > 1:
            head["cniVersions"] = supported
        document = {**head, "plugins": [plugin]}
    else:
        document = {**head, **plugin}
    return json.dumps(document, indent=2).encode() + b"\n"


def _versions(raw: dict[str, Any], where: AutoconfConfig) -> list[str]:
    """Return the version for a runtime that does not know "cniVersions", and all newer ones."""
    known = versions.SUPPORTED
    named, listed = where.cni_version or raw.get("cniVersion"), raw.get("cniVersions") or []
    if not named and not listed:
        named = versions.IMPLIED
    least = named if named in known else min(v for v in listed if v in known)
    return list(known[known.index(least) :])


def _plugin(path: Path, capabilities: dict[str, bool], where: AutoconfConfig) -> dict[str, Any]:
    plugin = {"type": meta_config.OWN_TYPE, "clusterNetwork": str(path), **where.meta}
    if capabilities:
        plugin["capabilities"] = {**plugin.get("capabilities", {}), **capabilities}
    return plugin


def _capabilities(network: Network) -> dict[str, bool]:
    """Return the capabilities that any of the primary's plugins declares."""
    wanted = {
        name for plugin in network.plugins for name, on in (plugin.get("capabilities") or {}).items() if on is True
    }
    return dict.fromkeys(sorted(wanted), True)


def _invalid(key: str, expected: str, got: object) -> Error:
    return Error(Kind.INVALID_CONFIG, key=key, expected=expected, got=got)
