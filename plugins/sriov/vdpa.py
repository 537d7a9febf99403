"""VFs and scalable functions with a vdpa device: the pod gets the vdpa device instead of the function's own netdev.

On virtio_vdpa the pod gets the netdev of the child virtio device, on vhost_vdpa the /dev/vhost-vdpa-N node (from
the device plugin).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import vdpa
from wirespeed.devices.vdpa import VHOST, VdpaDevice
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov.function import Vf


def through(vf: Vf) -> Vf:
    """Return the function with its current vdpa device, if it has one.

    Raises CniError(DEVICE) for a device on vhost_vdpa without a node.
    """
    found = vdpa.made_of(vf.device)
    if found is not None and found.kind == VHOST and not found.node:
        raise CniError(Code.DEVICE, f"{vf.where}: its vdpa device {found.address} has no vhost-vdpa node")
    return replace(vf, vdpa=found)


def noted(vf: Vf) -> dict[str, str] | None:
    """Return the vdpa device's entry of a snapshot."""
    return None if vf.vdpa is None else {"name": vf.vdpa.address, "driver": vf.vdpa.kind}


def again(vf: Vf, before: dict[str, str] | None) -> Vf:
    """Return the function with the vdpa device of a snapshot, even if that no longer exists."""
    return replace(vf, vdpa=None if before is None else VdpaDevice(before["name"], vf.device.sysfs))


def drift(vf: Vf, before: dict[str, str] | None) -> list[str]:
    """Return the differences from a snapshot, as messages."""
    if before is None or (vf.vdpa is not None and vf.vdpa.kind == before["driver"]):
        return []
    return [f"its vdpa device {before['name']} is no longer on {before['driver']}_vdpa"]


def info(vf: Vf, found: VdpaDevice) -> dict[str, Any]:
    """Return its device-info."""
    return deviceinfo.vdpa_info(
        found.address,
        found.kind,
        path=found.node,
        pci_address=vf.pci_address,
        pf_pci_address=vf.pf.address,
        representor_device=vf.representor,
    )
