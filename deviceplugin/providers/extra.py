"""Provider for pools with additionalInfo: the information from the configuration."""

from __future__ import annotations

from wirespeed.deviceplugin.providers.part import Asked, Part
from wirespeed.devices.inventory import AUXILIARY


def provide(asked: Asked) -> Part | None:
    """Return the information of "*", overridden by that of the device; for a scalable function that of its PF."""
    info = asked.pool.additional_info
    if info is None:
        return None
    device = asked.device
    address = device.pf if device.kind == AUXILIARY else device.address
    return Part("extra", {**info.get("*", {}), **info.get(address, {})})
