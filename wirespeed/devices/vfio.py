"""Which processes use VFs from user space, over vfio, uio or vhost-vdpa."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices.pci import PciDevice

_NODES = ("/dev/vfio/", "/dev/uio", "/dev/vhost-vdpa-")


def users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Return the process that has each device node open: {"/dev/vfio/42": "process 4711 (dpdk-testpmd)"}."""
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
        there = device.path / folder
        found += [f"{prefix}/{name}" for name in (sorted(os.listdir(there)) if there.exists() else ())]
    return found


def user_of(device: PciDevice, proc: Path = Path("/proc")) -> str:
    """Return the process that drives a device from user space, "" for none."""
    if not device.is_in_user_space:
        return ""
    return user_among(users(proc), device)


def user_among(opened: Mapping[str, str], device: PciDevice) -> str:
    """Return the process that has one of the device's nodes open, "" for none; `opened` is from `users`."""
    return next((opened[node] for node in nodes(device) if node in opened), "")


def check_unused(device: PciDevice) -> None:
    """Raise CniError(TRY_AGAIN_LATER) if a process has the device open.

    Unbinding it from vfio would block in the kernel until its last user closes it.
    """
    if user := user_of(device):
        raise CniError(
            Code.TRY_AGAIN_LATER, f"device {device.address}: {user} has it open; expected nobody to use it"
        )
