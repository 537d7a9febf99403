"""What a container gets with a device: each provider adds its part of the device's info, and device nodes."""

from __future__ import annotations

from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.pools import taken_by
from wirespeed.deviceplugin.providers import extra, rdma, uio, vdpa, vfio, vhostnet
from wirespeed.deviceplugin.providers.part import Asked, Node, Part, Provider
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import NetDevice

__all__ = ["Node", "Part", "parts"]

_PROVIDERS: tuple[Provider, ...] = (
    vfio.provide,
    uio.provide,
    rdma.provide,
    vdpa.provide,
    vhostnet.provide,
    extra.provide,
)


def parts(pool: PoolConfig, device: NetDevice, sysfs: str) -> list[Part]:
    """Return the parts of all providers for a device of the pool. Raises CniError(DEVICE)."""
    asked = Asked(device=device, selectors=taken_by(pool, device) or Selectors(), pool=pool, sysfs=sysfs)
    found = [Part("generic", {"deviceID": device.address})]
    return found + [part for provide in _PROVIDERS if (part := provide(asked)) is not None]
