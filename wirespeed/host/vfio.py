"""Who uses VFs in user space, over vfio, uio and vhost-vdpa."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wirespeed.host.pci import PciDevice

_NODES = ("/dev/vfio/", "/dev/uio", "/dev/vhost-vdpa-")


def users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Which process has which node of a device open: {"/dev/vfio/42": "process 4711 (dpdk-testpmd)"}."""
    found: dict[str, str] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            opened = [os.readlink(entry) for entry in (folder / "fd").iterdir()]
            command = (folder / "comm").read_text().strip()
        except OSError:  # it ended
            continue
        process = f"process {folder.name} ({command})"
        found |= {target: process for target in opened if target.startswith(_NODES)}
    return found


def nodes(device: PciDevice) -> list[str]:
    """The nodes by any of which an application may drive a device that is in user space.

    Those of vfio are its group's, which is named otherwise without an IOMMU, but not in a container; and its own,
    that goes with iommufd.
    """
    group = device.iommu_group
    found = [f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}"] if group else []
    for folder, prefix in (("vfio-dev", "/dev/vfio/devices"), ("uio", "/dev")):
        there = device.path / folder
        found += [f"{prefix}/{name}" for name in (sorted(os.listdir(there)) if there.exists() else ())]
    return found


def user_of(device: PciDevice, proc: Path = Path("/proc")) -> str:
    """The process that drives a device in user space, "" for none."""
    if not device.is_in_user_space:
        return ""
    return user_among(users(proc), device)


def user_among(opened: Mapping[str, str], device: PciDevice) -> str:
    """The process that has one of the device's nodes open, of what `users` told; "" for none."""
    return next((opened[node] for node in nodes(device) if node in opened), "")
