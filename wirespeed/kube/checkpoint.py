"""The kubelet's checkpoint file of devices, for nodes without its pod-resources service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code

NAME = "kubelet_internal_checkpoint"


class _Entry(msgspec.Struct):
    """The devices of one resource that one container has: ids by NUMA node."""

    uid: str = msgspec.field(name="PodUID")
    resource: str = msgspec.field(name="ResourceName")
    devices: dict[str, list[str]] = msgspec.field(name="DeviceIDs")


class _Data(msgspec.Struct):
    entries: list[_Entry] | None = msgspec.field(name="PodDeviceEntries", default=None)
    registered: dict[str, Any] | None = msgspec.field(name="RegisteredDevices", default=None)


@structs.prepared
class _File(msgspec.Struct):
    data: _Data = msgspec.field(name="Data")


def devices(path: Path, uid: str) -> dict[str, list[str]]:
    """Return the sorted device ids of the pod by resource name, of all its containers together.

    Empty for a pod without devices. Raises CniError: INVALID_CONFIG without a UID, IO_FAILURE if the file cannot be
    read, DECODING_FAILURE if it is no checkpoint.
    """
    if not uid:
        raise CniError(
            Code.INVALID_CONFIG, f"{path}: expected the pod's UID, got none: it is what devices go by here"
        )
    found: dict[str, set[str]] = {}
    for entry in _entries(path):
        if entry.uid == uid:
            found.setdefault(entry.resource, set()).update(*entry.devices.values())
    return {resource: sorted(ids) for resource, ids in found.items()}


def in_use(path: Path) -> dict[str, set[str]]:
    """Return the ids of all pods' devices, by resource name. Raises CniError: IO_FAILURE, DECODING_FAILURE."""
    found: dict[str, set[str]] = {}
    for entry in _entries(path):
        found.setdefault(entry.resource, set()).update(*entry.devices.values())
    return found


def registered(path: Path) -> set[str]:
    """Return the names of device plugins' resources. Raises CniError: IO_FAILURE, DECODING_FAILURE."""
    data = _data(path)
    return {*(data.registered or ()), *(entry.resource for entry in data.entries or ())}


def _entries(path: Path) -> list[_Entry]:
    return _data(path).entries or []


def _data(path: Path) -> _Data:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{path}: {error.strerror}") from error
    try:
        return msgspec.json.decode(text, type=_File).data
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, f"{path}: not a checkpoint of the kubelet: {error}") from error
