"""The files that Multus keeps for a pod, byte for byte as its thin plugin writes them.

Taken from Multus 4.3: `<cniDir>/<container>`, and libcni's `<cniDir>/results/<network>-<container>-<interface>`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POD_ARGS = {
    "IgnoreUnknown": "true",
    "K8S_POD_NAMESPACE": "test",
    "K8S_POD_NAME": "testpod",
    "K8S_POD_INFRA_CONTAINER_ID": "",
    "K8S_POD_UID": "uid1",
}


def _base64(config: Mapping[str, Any]) -> str:
    # Go marshals a map with sorted keys and without spaces.
    return base64.b64encode(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).decode()


def _lossy(plugin: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a plugin's configuration that Multus' own types keep."""
    ipam = plugin.get("ipam") or {}
    return {"ipam": {"type": ipam["type"]} if "type" in ipam else {}, "type": plugin["type"]}


@dataclass(kw_only=True)
class Attached:
    """A network of a pod that Multus attached; `config` is the configuration that its plugins were called with."""

    config: dict[str, Any]
    ifname: str
    result: dict[str, Any] | None  # None if its ADD has not succeeded
    inline: bool = False  # a conflist in `delegates`, rather than one from a file or a NetworkAttachmentDefinition
    label: str = ""  # "namespace/name" of the NetworkAttachmentDefinition, otherwise the configuration's name
    extra: dict[str, Any] = field(default_factory=dict)  # ifnameRequest, deviceID, resourceName ...
    args: dict[str, str] = field(default_factory=dict)  # in addition to those of the pod
    capability_args: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.config["name"])

    def listed(self) -> dict[str, Any]:
        """Its entry in the pod's list.

        For a conflist that was read from a file, such as the cluster network's, `Bytes` has little more than the
        plugins' types.
        """
        version = self.config.get("cniVersion", "")
        lossy = {"cniVersion": version, "name": self.name, "ipam": {}}
        conf, conf_list, content = lossy, {}, self.config
        file: dict[str, Any] = dict.fromkeys(("DisableCheck", "DisableGC", "LoadOnlyInlinedPlugins"), False)
        file |= {"Name": "", "CNIVersion": "", "Plugins": None, "Bytes": None}
        if "plugins" in self.config:
            plugins = [_lossy(each) for each in self.config["plugins"]]
            conf_list = {"cniVersion": version, "name": self.name, "plugins": plugins}
            if not self.inline and not self.label:
                conf, content = {"ipam": {}}, conf_list
                file |= {"Name": self.name, "CNIVersion": version, "Bytes": _base64(self.config)}
                file["Plugins"] = [
                    {"Network": _lossy(each), "Bytes": _base64(each)} for each in self.config["plugins"]
                ]
        else:
            conf = {**lossy, "type": self.config["type"]}
        return {
            "Conf": conf,
            "ConfList": conf_list,
            "CNINetworkConfigList": file,
            "Name": self.label or self.name,
            "IsFilterV4Gateway": False,
            "IsFilterV6Gateway": False,
            **self.extra,
            "Bytes": _base64(content),
        }

    def cached(self, container: str, netns: str) -> dict[str, Any]:
        """What libcni caches of its ADD."""
        args = list({**POD_ARGS, "K8S_POD_INFRA_CONTAINER_ID": container}.items())
        found: dict[str, Any] = {
            "kind": "cniCacheV1",
            "containerId": container,
            "config": _base64(self.config),
            "ifName": self.ifname,
            "networkName": self.name,
            "netns": netns,
            "cniArgs": [*args, *args, *self.args.items()],  # the thin plugin writes the pod's arguments twice
        }
        if self.capability_args:
            found["capabilityArgs"] = self.capability_args
        return {**found, "result": self.result}


def write(folder: Path, container: str, networks: list[Attached], *, netns: str) -> None:
    """Write the files of a pod whose networks were attached in this order."""
    (folder / "results").mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / container, [each.listed() for each in networks])
    for each in networks:
        if each.result is not None:
            name = f"{each.name}-{container}-{each.ifname}"
            _write(folder / "results" / name, each.cached(container, netns))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")))
    path.chmod(0o600)
