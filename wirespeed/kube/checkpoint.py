"""The kubelet's checkpoint file of devices, for nodes without its pod-resources service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind, os_errors

NAME = "kubelet_internal_checkpoint"


class _Entry(msgspec.Struct):
    """The devices of one resource that one container has: ids by NUMA node."""

    uid: str = msgspec.field(name="PodUID")
    resource: str = msgspec.field(name="ResourceName")
    devices: dict[str, list[str]] = msgspec.field(name="DeviceIDs")


class _Data(msgspec.Struct):
    entries: list[_Entry] | None = msgspec.field(name="PodDeviceEntries", default=None)
    registered_resources: dict[str, Any] | None = msgspec.field(name="RegisteredDevices", default=None)


@structs.prepared
class _File(msgspec.Struct):
    data: _Data = msgspec.field(name="Data")


def devices(path: Path, uid: str) -> dict[str, list[str]]:
    """Return a pod's sorted device ids by resource. Raises Error: INVALID_CONFIG (no UID), IO, INVALID_DATA."""
    if not uid:
        raise Error(Kind.INVALID_CONFIG, "it lists devices by the UID of the pod, which has none", where=str(path))
    return {resource: sorted(ids) for resource, ids in in_use(path, uid).items()}


def in_use(path: Path, uid: str = "") -> dict[str, set[str]]:
    """Return the ids of the devices of one pod, or of all, by resource name. Raises Error: IO, INVALID_DATA."""
    found: dict[str, set[str]] = {}
    for entry in _data(path).entries or ():
        if uid in ("", entry.uid):
            found.setdefault(entry.resource, set()).update(*entry.devices.values())
    return found


def registered_resources(path: Path) -> set[str]:
    """Return the names of device plugins' resources. Raises Error: IO, INVALID_DATA."""
    data = _data(path)
    return {*(data.registered_resources or ()), *(entry.resource for entry in data.entries or ())}


def _data(path: Path) -> _Data:
    with os_errors(path):
        text = path.read_bytes()
    try:
        return msgspec.json.decode(text, type=_File).data
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not a checkpoint of the kubelet: {error}", where=str(path)) from error
