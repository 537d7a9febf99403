"""CDI: writes the specification of each pool's devices for the container runtime."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wirespeed import errors
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.providers import Part, parts
from wirespeed.devices.inventory import ACCELERATOR, AUXILIARY, NETWORK, NetDevice
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube import checkpoint
from wirespeed.node import NodeConfig
from wirespeed.system import files

log = logging.getLogger(__name__)

VERSION = "0.5.0"  # the oldest version with all that is used here: device names that begin with a digit
_CLASSES = {NETWORK: "net-pci", ACCELERATOR: "net-accel", AUXILIARY: "net-sf"}
_FILE_PREFIX = "wirespeed-dp-"  # prefix of our files' names
_VENDOR = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]")

Edits = Mapping[str, Any]


class Specs:
    """The CDI specification of one pool's devices, a file in the folder `folder`. Thread-safe.

    `used` are devices that containers already have. These, and devices allocated later, stay in the file even if
    they leave the pool, because a container of a running pod may be restarted.
    """

    def __init__(self, pool: PoolConfig, *, sysfs: str, folder: Path, used: Collection[str] = ()) -> None:
        self.kind = kind(pool)
        self.file = _file(pool, folder)
        self._resource, self._sysfs = pool.resource, sysfs
        self._lock = threading.Lock()
        self._used = set(used)
        self._offered: tuple[PoolConfig, dict[str, NetDevice]] | None = None
        self._edits: dict[str, Edits] = {key: edits for key, edits in read(self.file).items() if key in self._used}

    @property
    def is_file_removed(self) -> bool:
        """Whether the file was removed; the runtime reads it again when a container is restarted."""
        return bool(self._edits) and not self.file.exists()

    def offer(self, pool: PoolConfig, devices: Mapping[str, NetDevice]) -> None:
        """Write these devices of the pool into the file, except those that lack a node. Raises Error(IO)."""
        with self._lock:
            if (pool, devices) == self._offered and self.file.exists():
                return
            found = {key: edits for key, edits in self._edits.items() if key in self._used}
            for key, device in devices.items():
                with contextlib.suppress(Error):  # Allocate of the device reports the error
                    found[key] = edits_of(device, parts(pool, device, self._sysfs))
            self._write(found)
            self._offered = pool, dict(devices)

    def allocate(self, allocated: Iterable[tuple[NetDevice, Sequence[Part]]]) -> list[str]:
        """Update the allocated devices in the file; return their CDI names. Raises Error(IO)."""
        now = {device.address: edits_of(device, provided) for device, provided in allocated}
        with self._lock:
            self._used.update(now)
            if any(self._edits.get(key) != edits for key, edits in now.items()) or not self.file.exists():
                self._write({**self._edits, **now})
        return [f"{self.kind}={key}" for key in now]

    def _write(self, found: dict[str, Edits]) -> None:
        try:
            if found:
                devices = [{"name": key, "containerEdits": edits} for key, edits in sorted(found.items())]
                spec = {"cdiVersion": VERSION, "kind": self.kind, "containerEdits": {}, "devices": devices}
                self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                files.write_atomically(self.file, json.dumps(spec).encode(), 0o644)
            else:  # CDI does not allow a specification without devices
                self.file.unlink(missing_ok=True)
        except OSError as error:
            where = f"CDI specification {self.file}"
            raise errors.as_error(error, where).within(Thing("resource", self._resource)) from error
        self._edits = found


def specs_of(pool: PoolConfig, where: NodeConfig) -> Specs | None:
    """Return the pool's specification, None if the pool does not use CDI.

    Raises Error(INVALID_CONFIG) if the resource prefix is no valid CDI vendor, or the pool needs CDI for `bind`.
    """
    resource = Thing("resource", pool.resource)
    if not uses_cdi(pool, where):
        if pool.bind:
            what = "the nodes of a VF's driver are known when its container starts, not when the VF is allocated"
            raise Error(Kind.INVALID_CONFIG, f"bind needs cdi: {what}", where=resource)
        return None
    vendor = pool.resource.partition("/")[0]
    if not _VENDOR.fullmatch(vendor):
        expected = "a prefix that begins with a letter, as CDI requires"
        raise Error(Kind.INVALID_CONFIG, where=resource, expected=expected, got=vendor)
    folder, in_use = Path(where.cdi_dir), _used(where)
    used = read(_file(pool, folder)) if in_use is None else in_use.get(pool.resource, ())
    return Specs(pool, sysfs=where.sysfs, folder=folder, used=used)


def uses_cdi(pool: PoolConfig, where: NodeConfig) -> bool:
    """Whether the pool uses CDI: its own setting, else that of the node; never for pools without hardware."""
    return pool.kind in _CLASSES and (where.cdi if pool.cdi is None else pool.cdi)


def remove_stale(pools: Iterable[PoolConfig], where: NodeConfig) -> None:
    """Remove the files of pools that no longer exist, except those with a device that a pod has."""
    used = _used(where)
    if used is None:  # without the kubelet's checkpoint
        return
    folder, in_use = Path(where.cdi_dir), set().union(*used.values())
    present = {_file(pool, folder) for pool in pools if uses_cdi(pool, where)}
    for file in sorted(folder.glob(f"{_FILE_PREFIX}*.json")):
        if file not in present and not in_use & read(file).keys():
            file.unlink(missing_ok=True)
            log.info(
                "removed the CDI specification of a pool that no longer exists", extra={"fields": {"file": file}}
            )


def kind(pool: PoolConfig) -> str:
    """Return the pool's CDI kind, e.g. "intel.com/net-pci-dpdk"; each pool has its own."""
    prefix, _, name = pool.resource.partition("/")
    return f"{prefix}/{_CLASSES[pool.kind]}-{name}"


def annotation(names: Sequence[str]) -> dict[str, str]:
    """Return an annotation with CDI names of one kind, for a runtime without support for cdi_devices."""
    return {f"cdi.k8s.io/{names[0].partition('=')[0].replace('/', '_')}": ",".join(names)} if names else {}


def edits_of(device: NetDevice, provided: Iterable[Part]) -> Edits:
    """Return the device's container edits: its nodes; if it has none, a variable, as empty edits are invalid."""
    nodes = dict.fromkeys(node for part in provided for node in part.nodes)
    if nodes:
        return {"deviceNodes": [{"path": path, "hostPath": host, "permissions": "rw"} for path, host in nodes]}
    name = re.sub(r"[^A-Z0-9]", "_", device.address.upper())
    return {"env": [f"WIRESPEED_DEVICE_{name}={device.address}"]}


def read(file: Path) -> dict[str, Edits]:
    """Return the container edits of a file's devices, by name; {} if it is missing or not in our format."""
    try:
        return {device["name"]: device["containerEdits"] for device in json.loads(file.read_bytes())["devices"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _file(pool: PoolConfig, folder: Path) -> Path:
    return folder / f"{_FILE_PREFIX}{kind(pool).replace('/', '-')}.json"


def _used(where: NodeConfig) -> dict[str, set[str]] | None:
    """Return the devices that the kubelet has allocated to pods, by resource; None if that is unknown."""
    try:
        return checkpoint.in_use(Path(where.kubelet) / "device-plugins" / checkpoint.NAME)
    except Error as error:
        log.debug("%s", error.msg)
        return None
