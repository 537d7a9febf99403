"""VFs and scalable functions that have a vdpa device: that, and not the netdev of their own, is what a pod gets.

On virtio_vdpa it is the netdev of the virtio device below it, on vhost_vdpa a node, which the device plugin gives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.host import vdpa
from wirespeed.host.vdpa import VHOST, VdpaDevice
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov.function import Vf


def through(vf: Vf) -> Vf:
    """The function with the vdpa device that is made of it now.

    Raises CniError(DEVICE) for one on vhost_vdpa without a node.
    """
    found = vdpa.made_of(vf.device)
    if found is not None and found.kind == VHOST and not found.node:
        raise CniError(Code.DEVICE, f"{vf.where}: its vdpa device {found.address} has no vhost-vdpa node")
    return replace(vf, vdpa=found)


def noted(vf: Vf) -> dict[str, str] | None:
    """What a snapshot says of it."""
    return None if vf.vdpa is None else {"name": vf.vdpa.address, "driver": vf.vdpa.kind}


def again(vf: Vf, before: dict[str, str] | None) -> Vf:
    """The function with the vdpa device that was noted, whatever became of that."""
    return replace(vf, vdpa=None if before is None else VdpaDevice(before["name"], vf.device.sysfs))


def drift(vf: Vf, before: dict[str, str] | None) -> list[str]:
    """What is not as it was noted."""
    if before is None or (vf.vdpa is not None and vf.vdpa.kind == before["driver"]):
        return []
    return [f"its vdpa device {before['name']} is no longer on {before['driver']}_vdpa"]


def info(vf: Vf, found: VdpaDevice) -> dict[str, Any]:
    """Its device-info."""
    return deviceinfo.vdpa_info(
        found.address,
        found.kind,
        path=found.node,
        pci_address=vf.pci_address,
        pf_pci_address=vf.pf.address,
        representor_device=vf.representor,
    )
