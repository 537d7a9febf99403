"""Provider for devices on a uio driver: their /dev/uioN node."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.providers.part import Asked, Part, same
from wirespeed.kernel.sysfs import entries

_DRIVERS = frozenset({"uio", "igb_uio", "uio_pci_generic"})


def provide(asked: Asked) -> Part | None:
    device = asked.device
    if device.driver not in _DRIVERS:
        return None
    found = entries(f"{asked.path}/uio")
    if not found:
        raise CniError(Code.DEVICE, f"device {device.address}: on {device.driver} without a uio device")
    node = f"/dev/{found[0]}"
    return Part("uio", {"mount": node}, (same(node),))
