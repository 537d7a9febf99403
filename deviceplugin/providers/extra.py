"""Devices of a pool with additionalInfo: what the configuration tells of them."""

from __future__ import annotations

from wirespeed.deviceplugin.providers.part import Asked, Part
from wirespeed.host.inventory import AUXILIARY


def provide(asked: Asked) -> Part | None:
    """That of the device itself goes before that of all devices. A scalable function has that of its PF."""
    info = asked.pool.additional_info
    if info is None:
        return None
    device = asked.device
    address = device.pf if device.kind == AUXILIARY else device.address
    return Part("extra", {**info.get("*", {}), **info.get(address, {})})
