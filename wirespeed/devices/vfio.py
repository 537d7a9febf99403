"""Which processes use VFs from user space, over vfio, uio or vhost-vdpa."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind, Thing

_NODES = ("/dev/vfio/", "/dev/uio", "/dev/vhost-vdpa-")


def users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Return which process has each device node open: {"/dev/vfio/42": "process 4711 (dpdk-testpmd)"}."""
    found: dict[str, str] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            opened = [os.readlink(entry) for entry in (folder / "fd").iterdir()]
            command = (folder / "comm").read_text().strip()
        except OSError:  # the process has ended
            continue
        process = f"process {folder.name} ({command})"
        found |= {target: process for target in opened if target.startswith(_NODES)}
    return found


def nodes(device: PciDevice) -> list[str]:
    """Return the device nodes by which an application can drive a device that is bound to a user-space driver.

    With vfio, these are the node of the IOMMU group and the device's own node, which is for iommufd. Without an
    IOMMU, the group's node is /dev/vfio/noiommu-<group> on the host, but /dev/vfio/<group> in a container.
    """
    group = device.iommu_group
    found = [f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}"] if group else []
    for folder, prefix in (("vfio-dev", "/dev/vfio/devices"), ("uio", "/dev")):
        found += [f"{prefix}/{name}" for name in device.entries(folder)]
    return found


def user_of(device: PciDevice, proc: Path = Path("/proc")) -> str:
    """Return the process that drives a device from user space, "" for none."""
    return user_among(users(proc), device) if device.is_in_user_space else ""


def user_among(opened: Mapping[str, str], device: PciDevice) -> str:
    """Return the process that has one of the device's nodes open, "" for none; `opened` is from `users`."""
    return next((opened[node] for node in nodes(device) if node in opened), "")


def check_unused(device: PciDevice) -> None:
    """Raise Error(TRY_AGAIN) if a process has the device open: unbinding it from vfio would block until then."""
    if user := user_of(device):
        where = Thing("device", device.address)
        raise Error(Kind.TRY_AGAIN, f"{user} has it open", where=where, expected="nobody to use it")
