"""Device-info files (NPWG device-info specification 1.1.0): what an allocated device is, for pods and status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.host import files

VERSION = "1.1.0"

_LONGEST = 250  # bytes of a file's name, of which a `write` needs 5 more


def pci_info(address: str, **more: str) -> dict[str, Any]:
    """The device-info object of a PCI device; `more` are the optional fields, their "_" written "-".

    pci_info("0000:03:02.0", pf_pci_address="0000:03:00.0")
    """
    pci = {"pci-address": address} | {key.replace("_", "-"): value for key, value in more.items() if value}
    return {"type": "pci", "version": VERSION, "pci": pci}


def vdpa_info(parent: str, driver: str, **more: str) -> dict[str, Any]:
    """The device-info object of the vdpa device `parent` on `driver`, "vhost" or "virtio"; `more` as above."""
    vdpa = {"parent-device": parent, "driver": driver}
    vdpa |= {key.replace("_", "-"): value for key, value in more.items() if value}
    return {"type": "vdpa", "version": VERSION, "vdpa": vdpa}


def vhost_user_info(mode: str, path: str) -> dict[str, Any]:
    """The device-info object of a vhost-user interface: `mode` is the application's, "client" or "server"; `path`
    is where it finds or makes the socket.
    """
    return {"type": "vhost-user", "version": VERSION, "vhost-user": {"mode": mode, "path": path}}


def memif_info(role: str, path: str, mode: str = "ethernet") -> dict[str, Any]:
    """The device-info object of a memif interface: `role` is the application's, "master" or "slave"; `mode` is
    "ethernet", "ip" or "inject-punt".
    """
    return {"type": "memif", "version": VERSION, "memif": {"role": role, "path": path, "mode": mode}}


def dp_file(base: Path, resource: str, device: str) -> Path:
    """Where a device plugin leaves the device-info of an allocated device."""
    return base / "dp" / f"{resource.replace('/', '-')}-{device.replace('/', '-')}-device.json"


def cni_file(base: Path, network: str, container: str, ifname: str) -> Path:
    """Where the device-info of one attachment lies; `network` is "namespace/name"; of a long name its end."""
    return base / "cni" / f"{network.replace('/', '-')}-{container}_{ifname}"[-_LONGEST:]


def write(path: Path, info: dict[str, Any]) -> None:
    """Write the file atomically, mode 0444, its folder 0755. Raises OSError."""
    new = _unfinished(path)
    try:
        file = _create(new)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file = _create(new)
    except FileExistsError:  # a `write` that was killed has left it
        new.unlink()
        file = _create(new)
    with open(file, "wb") as unfinished:
        os.fchmod(file, 0o444)
        unfinished.write(json.dumps(info, separators=(",", ":")).encode())
    os.replace(new, path)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def remove(path: Path) -> None:
    """Remove the file, if it is there, and what a `write` that was killed has left of it. Raises OSError."""
    for name in (path, _unfinished(path)):
        with suppress(FileNotFoundError, NotADirectoryError):
            name.unlink()


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """What fails with the file is told with its path: CniError(IO_FAILURE)."""
    try:
        yield
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"device-info file {path}: {error.strerror}") from error


def _unfinished(path: Path) -> Path:
    return path.with_name(files.unfinished(path.name))


def read(path: Path) -> dict[str, Any] | None:
    """The device-info of a file, or None where there is none or it is not a JSON object."""
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None
