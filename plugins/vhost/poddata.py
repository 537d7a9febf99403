"""Data on the interface for the application in the pod: userspace-CNI's configuration data, and device-info.

Both describe the application's side: its role, and the socket's path in the container. The configuration data has
the keys of userspace-CNI, and in addition podName, config.mac, mtu, queues, memif.ringSize, bufferSize and secret,
which readers of userspace-CNI's data ignore.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kube import deviceinfo
from wirespeed.plugins.vhost.conf import MEMIF, VHOSTUSER, VhostConf
from wirespeed.plugins.vhost.sockets import Folder

CONFIGURATION_DATA = "userspace/configuration-data"
MAPPED_DIR = "userspace/mapped-dir"

Data = dict[str, Any]


def file_name(port: str) -> str:
    """Return the name of the file with the configuration data; it is in the socket's folder."""
    return f"configData-{port}.json"


def configuration_data(request: Request, conf: VhostConf, *, role: str, file: str, addressing: Result) -> Data:
    """Return the configuration data of one interface; `role` is the application's, `file` the socket's name.

    Values of the configuration's "container" part are kept; the others are derived from the "host" part.
    """
    given = conf.container
    config: Data = {part: dict(given[part]) for part in ("memif", "vhost", "bridge")}
    config |= {key: given[key] for key in ("engine", "iftype", "netType") if given.get(key)}
    config.setdefault("iftype", conf.kind)
    if addressing.get("ips"):
        config.setdefault("netType", "interface")
    if config["iftype"] == MEMIF:
        config["memif"] |= _memif(conf, role, file)
    elif config["iftype"] == VHOSTUSER:
        config["vhost"] |= {"mode": role, "socketfile": file}
    config |= {"mac": conf.mac} if conf.mac else {}
    config |= {"mtu": conf.mtu} if conf.mtu else {}
    config |= {"queues": conf.queues} if conf.queues > 1 else {}
    data = {
        "containerId": request.container_id,
        "ifName": request.ifname,
        "name": request.name,
        "config": config,
        "ipResult": _ip_result(request, addressing),
    }
    # Pods may share a folder; a pod recognizes its own data by podName.
    return data | ({"podName": request.args["K8S_POD_NAME"]} if request.args.get("K8S_POD_NAME") else {})


def _memif(conf: VhostConf, role: str, file: str) -> Data:
    memif: Data = {"role": role, "socketfile": file}
    mode = conf.container["memif"].get("mode") or conf.mode
    memif |= {"mode": mode} if mode else {}
    memif |= {"ringSize": conf.ring_size} if conf.ring_size != 1024 else {}
    memif |= {"bufferSize": conf.buffer_size} if conf.buffer_size != 2048 else {}
    memif |= {"secret": conf.secret} if conf.secret else {}
    return memif


def _ip_result(request: Request, addressing: Result) -> Data:
    """Return the addresses without their gateways, as userspace-CNI does (the routes have the gateways)."""
    found: Data = {"interfaces": [{"name": request.ifname, "sandbox": request.netns}]}
    if addressing.get("ips"):
        found["ips"] = [{"interface": 0, "address": ip["address"]} for ip in addressing["ips"]]
    if addressing.get("routes"):
        found["routes"] = addressing["routes"]
    return found | {"dns": addressing.get("dns") or {}}


def device_info(conf: VhostConf, folder: Folder, *, role: str, file: str) -> dict[str, Any]:
    """Return the interface's device-info, with the socket's path in the container, or on the node if unknown."""
    path = f"{folder.inside or folder.path}/{file}"
    if conf.kind == MEMIF:
        return deviceinfo.memif_info(role, path, conf.container["memif"].get("mode") or conf.mode or "ethernet")
    return deviceinfo.vhost_user_info(role, path)


def pod_annotations(present: Mapping[str, str], data: Data, mapped_dir: str) -> dict[str, str]:
    """Return the pod's annotations that change when the data of one interface is added.

    Data of an earlier attachment with the same interface name is replaced. Raises Error(INVALID_CONFIG) if the
    pod's annotation userspace/mapped-dir names another folder.
    """
    mapped = present.get(MAPPED_DIR, "").rstrip("/")
    if mapped and mapped_dir and mapped != mapped_dir:
        expected = f"{mapped_dir}, the mount path of the volume"
        raise Error(Kind.INVALID_CONFIG, where=f"annotation {MAPPED_DIR}", expected=expected, got=mapped)
    try:
        known = json.loads(present.get(CONFIGURATION_DATA) or "[]")
    except ValueError:
        known = []
    listed = known if isinstance(known, list) else []
    kept = [entry for entry in listed if isinstance(entry, dict) and entry.get("ifName") != data["ifName"]]
    changed = {CONFIGURATION_DATA: json.dumps([*kept, data], indent=4)}
    return changed | ({MAPPED_DIR: f"{mapped_dir}/"} if mapped_dir and not mapped else {})
