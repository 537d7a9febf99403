"""CDI: each pool's devices as a specification that the container runtime reads."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.providers import Part, parts
from wirespeed.host import files
from wirespeed.host.inventory import ACCELERATOR, AUXILIARY, NETWORK, NetDevice
from wirespeed.kube import checkpoint
from wirespeed.node import NodeConfig

log = logging.getLogger(__name__)

VERSION = "0.5.0"  # the oldest that has all that is used here: device names that begin with a digit
_CLASSES = {NETWORK: "net-pci", ACCELERATOR: "net-accel", AUXILIARY: "net-sf"}
_OURS = "wirespeed-dp-"  # what the names of our files begin with
_VENDOR = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]")

Edits = Mapping[str, Any]


class Specs:
    """The specification of one pool's devices, a file in the folder `folder`; safe from any thread.

    `used` are devices that containers have had since before: with those given from here on, they stay in the
    file when they leave the pool, for a container of a pod that runs may be started again.
    """

    def __init__(self, pool: PoolConfig, *, sysfs: str, folder: Path, used: Collection[str] = ()) -> None:
        self.kind = kind(pool)
        self.file = folder / f"{_OURS}{self.kind.replace('/', '-')}.json"
        self._resource, self._sysfs = pool.resource, sysfs
        self._lock = threading.Lock()
        self._used = set(used)
        self._offered: tuple[PoolConfig, dict[str, NetDevice]] | None = None
        self._edits: dict[str, Edits] = {key: edits for key, edits in read(self.file).items() if key in self._used}

    @property
    def lost(self) -> bool:
        """Whether somebody has removed the file: of a container that is started again the runtime reads it anew."""
        return bool(self._edits) and not self.file.exists()

    def offer(self, pool: PoolConfig, devices: Mapping[str, NetDevice]) -> None:
        """Have these devices of the pool, as it is by now, in the file; one that lacks a node is left out.

        Raises CniError(IO_FAILURE).
        """
        with self._lock:
            if (pool, devices) == self._offered and self.file.exists():
                return
            found = {key: edits for key, edits in self._edits.items() if key in self._used}
            for key, device in devices.items():
                with contextlib.suppress(CniError):  # who asks for it is told why
                    found[key] = edits_of(device, parts(pool, device, self._sysfs))
            self._write(found)
            self._offered = pool, dict(devices)

    def give(self, given: Iterable[tuple[NetDevice, Sequence[Part]]]) -> list[str]:
        """The names to tell the runtime, once the devices are in the file as they are now.

        Raises CniError(IO_FAILURE).
        """
        now = {device.address: edits_of(device, provided) for device, provided in given}
        with self._lock:
            self._used.update(now)
            if any(self._edits.get(key) != edits for key, edits in now.items()) or not self.file.exists():
                self._write({**self._edits, **now})
        return [f"{self.kind}={key}" for key in now]

    def _write(self, found: dict[str, Edits]) -> None:
        try:
            if found:
                self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                files.write_atomically(self.file, json.dumps(spec(self.kind, found)).encode(), 0o644)
            else:  # a specification of no device is not valid
                self.file.unlink(missing_ok=True)
        except OSError as error:
            where = f"resource {self._resource}: CDI specification {self.file}"
            raise CniError(Code.IO_FAILURE, f"{where}: {error.strerror}") from error
        self._edits = found


def specs(pool: PoolConfig, where: NodeConfig) -> Specs | None:
    """The pool's specification, None where its devices are not given by CDI.

    Raises CniError(INVALID_CONFIG) where CDI could not name the pool.
    """
    if not is_given_by_cdi(pool, where):
        return None
    vendor = pool.resource.partition("/")[0]
    if not _VENDOR.fullmatch(vendor):
        expected = "CDI expects a prefix that begins with a letter"
        raise CniError(Code.INVALID_CONFIG, f"resource {pool.resource}: {expected}, got {vendor!r}")
    used = _used(where)
    return Specs(
        pool,
        sysfs=where.sysfs,
        folder=Path(where.cdi_dir),
        used=read(_file(pool, where)) if used is None else used.get(pool.resource, ()),
    )


def is_given_by_cdi(pool: PoolConfig, where: NodeConfig) -> bool:
    """What the pool says, else the node; never what is no hardware."""
    return pool.kind in _CLASSES and (where.cdi if pool.cdi is None else pool.cdi)


def remove_stale(pools: Iterable[PoolConfig], where: NodeConfig) -> None:
    """Remove the files of pools that are no more, but for those with a device that a pod has."""
    folder = Path(where.cdi_dir)
    present = {_file(pool, where) for pool in pools if is_given_by_cdi(pool, where)}
    used = _used(where)
    in_use = {key for keys in (used or {}).values() for key in keys}
    for file in sorted(folder.glob(f"{_OURS}*.json")):
        if file not in present and used is not None and not in_use & read(file).keys():
            file.unlink(missing_ok=True)
            log.info("removed the CDI specification of a pool that is no more", extra={"fields": {"file": file}})


def kind(pool: PoolConfig) -> str:
    """What CDI calls a pool's devices, "intel.com/net-pci-dpdk": each pool of its own, so that they never mix."""
    prefix, _, name = pool.resource.partition("/")
    return f"{prefix}/{_CLASSES[pool.kind]}-{name}"


def annotation(names: Sequence[str]) -> dict[str, str]:
    """The names of one kind's devices in an annotation, for a runtime that reads no others."""
    return {f"cdi.k8s.io/{names[0].partition('=')[0].replace('/', '_')}": ",".join(names)} if names else {}


def edits_of(device: NetDevice, provided: Iterable[Part]) -> Edits:
    """What the runtime adds for the device: its nodes, else a variable: a device without any edit is not valid."""
    nodes = dict.fromkeys(node for part in provided for node in part.nodes)
    if nodes:
        return {"deviceNodes": [{"path": path, "hostPath": host, "permissions": "rw"} for path, host in nodes]}
    name = re.sub(r"[^A-Z0-9]", "_", device.address.upper())
    return {"env": [f"WIRESPEED_DEVICE_{name}={device.address}"]}


def spec(name: str, devices: Mapping[str, Edits]) -> dict[str, Any]:
    """The specification of a kind's devices."""
    return {
        "cdiVersion": VERSION,
        "kind": name,
        "containerEdits": {},
        "devices": [{"name": key, "containerEdits": edits} for key, edits in sorted(devices.items())],
    }


def read(file: Path) -> dict[str, Edits]:
    """The edits of a file's devices, none where there is no file of ours."""
    try:
        return {device["name"]: device["containerEdits"] for device in json.loads(file.read_bytes())["devices"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _file(pool: PoolConfig, where: NodeConfig) -> Path:
    return Path(where.cdi_dir) / f"{_OURS}{kind(pool).replace('/', '-')}.json"


def _used(where: NodeConfig) -> dict[str, set[str]] | None:
    """The devices that the kubelet has given to pods, by resource; None where that cannot be known."""
    try:
        return checkpoint.in_use(Path(where.kubelet) / "device-plugins" / checkpoint.NAME)
    except CniError as error:
        log.debug("%s", error.msg)
        return None
