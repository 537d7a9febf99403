"""Scalable functions: they have a netdev, but no settings (VLAN, admin MAC ...) in their PF's driver."""

from __future__ import annotations

from wirespeed.devices.functions import ScalableFunction
from wirespeed.devices.pci import PciDevice
from wirespeed.plugins.sriov.function import SCALABLE, Vf


def look(device: ScalableFunction, pf: PciDevice) -> Vf:
    """Return the function, without its netdev."""
    return Vf(
        device=device,
        pf=pf,
        index=device.number,
        driver=device.driver,
        kind=SCALABLE,
        pf_fault="what a PF holds for its VFs it does not hold for a scalable function",
    )
