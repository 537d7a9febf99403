"""What others learn of an attached function: its device-info, and the device of its interface."""

from __future__ import annotations

from typing import Any

from wirespeed.devices.vf import Vf
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov.record import record_of
from wirespeed.state.journal import DeviceClaim


def device_info(vf: Vf) -> dict[str, Any] | None:
    """Return its device-info; None for a scalable function, for which the specification has no type."""
    if vf.vdpa is not None:
        return deviceinfo.vdpa_info(
            vf.vdpa.address,
            vf.vdpa.kind,
            path=vf.vdpa.node,
            pci_address=vf.pci_address,
            pf_pci_address=vf.pf.address,
            representor_device=vf.representor,
        )
    if not vf.pci_address:
        return None
    return deviceinfo.pci_info(vf.pci_address, pf_pci_address=vf.pf.address, representor_device=vf.representor)


def netdev_parent(claim: DeviceClaim) -> str:
    """Return the bus address of the parent device of a claimed function's netdev."""
    link = record_of(claim).before.link
    return claim.device if link is None else link.parent
