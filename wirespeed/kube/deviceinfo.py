"""Device-info files (NPWG device-info specification 1.1.0), which describe a device for pods and network-status."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wirespeed import structs
from wirespeed.errors import os_errors
from wirespeed.system import files

VERSION = "1.1.0"

_LONGEST = 250  # bytes of a file name; while it is written, 5 more are added


def pci_info(address: str, **more: str) -> dict[str, Any]:
    """Return the device-info object of a PCI device; `more` are optional fields, with "_" in place of "-".

    pci_info("0000:03:02.0", pf_pci_address="0000:03:00.0")
    """
    pci = {"pci-address": address} | {key.replace("_", "-"): value for key, value in more.items() if value}
    return {"type": "pci", "version": VERSION, "pci": pci}


def vdpa_info(parent: str, driver: str, **more: str) -> dict[str, Any]:
    """Return the device-info object of vdpa device `parent` with `driver` "vhost" or "virtio"; `more` as above."""
    vdpa = {"parent-device": parent, "driver": driver}
    vdpa |= {key.replace("_", "-"): value for key, value in more.items() if value}
    return {"type": "vdpa", "version": VERSION, "vdpa": vdpa}


def vhost_user_info(mode: str, path: str) -> dict[str, Any]:
    """Return the device-info object of a vhost-user interface: `mode` is the application's role, "client" or
    "server"; `path` is where the application finds or creates the socket.
    """
    return {"type": "vhost-user", "version": VERSION, "vhost-user": {"mode": mode, "path": path}}


def memif_info(role: str, path: str, mode: str = "ethernet") -> dict[str, Any]:
    """Return the device-info object of a memif interface: `role` is the application's, "master" or "slave"; `mode`
    is "ethernet", "ip" or "inject-punt".
    """
    return {"type": "memif", "version": VERSION, "memif": {"role": role, "path": path, "mode": mode}}


def dp_file(base: Path, resource: str, device: str) -> Path:
    """Return the path at which a device plugin writes the device-info of an allocated device."""
    return base / "dp" / f"{resource.replace('/', '-')}-{device.replace('/', '-')}-device.json"


def cni_file(base: Path, network: str, container: str, ifname: str) -> Path:
    """Return the path of an attachment's device-info; `network` is "namespace/name". Cuts long names in front."""
    return base / "cni" / f"{network.replace('/', '-')}-{container}_{ifname}"[-_LONGEST:]


def requested_file(runtime_config: Mapping[str, Any], base: Path) -> str:
    """Return the path CNIDeviceInfoFile of a `runtimeConfig`, "" without it. Raises Error(INVALID_CONFIG).

    It must be below `base`, the device-info folder: root writes the file, and a network may choose its path.
    """
    value = runtime_config.get("CNIDeviceInfoFile")
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.isprintable() or ".." in value.split("/"):
        raise structs.wrong("runtimeConfig.CNIDeviceInfoFile", "an absolute path", value)
    if base not in Path(value).parents:
        raise structs.wrong("runtimeConfig.CNIDeviceInfoFile", f"a file in {base}", value)
    return value


def write(path: Path, info: dict[str, Any]) -> None:
    """Write the file atomically, mode 0444, its folder 0755. Raises Error(IO)."""
    new = _temporary_path(path)
    with os_errors(f"device-info file {path}"):
        try:
            file = _create(new)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            file = _create(new)
        except FileExistsError:  # left by a `write` that was killed
            new.unlink()
            file = _create(new)
        with open(file, "wb") as unfinished:
            os.fchmod(file, 0o444)
            unfinished.write(json.dumps(info, separators=(",", ":")).encode())
        os.replace(new, path)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def remove(path: Path) -> None:
    """Remove the file, if it exists, and the temporary file of a `write` that was killed. Raises Error(IO)."""
    with os_errors(f"device-info file {path}"):
        for name in (path, _temporary_path(path)):
            with suppress(FileNotFoundError, NotADirectoryError):
                name.unlink()


def _temporary_path(path: Path) -> Path:
    return path.with_name(files.temporary_name(path.name))


def read(path: Path) -> dict[str, Any] | None:
    """Read a device-info file; None if it cannot be read or is not a JSON object."""
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None
