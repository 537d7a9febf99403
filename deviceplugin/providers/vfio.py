"""Provider for devices on vfio-pci or a vendor's vfio driver: /dev/vfio/vfio and the IOMMU group's node."""

from __future__ import annotations

import os
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.providers.part import Asked, Node, Part, same
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.sysfs import entries

_CONTAINER = "/dev/vfio/vfio"


def provide(asked: Asked) -> Part | None:
    """Return the nodes. Without an IOMMU the host's node is noiommu-<group>; DPDK expects it as <group>."""
    device = asked.device
    if device.driver != "vfio-pci" and not os.path.isdir(f"{asked.path}/vfio-dev"):
        return None
    if not device.iommu_group:
        raise CniError(Code.DEVICE, f"device {device.address}: on {device.driver} without an IOMMU group")
    node = f"/dev/vfio/{device.iommu_group}"
    told = {"dev-mount": node, "mount": _CONTAINER}
    if PciDevice(device.address, Path(asked.sysfs)).is_noiommu:
        return Part("vfio", told, (same(_CONTAINER), (node, f"/dev/vfio/noiommu-{device.iommu_group}")))
    return Part("vfio", told, (same(_CONTAINER), same(node), *_character_devices(asked)))


def _character_devices(asked: Asked) -> list[Node]:
    """Return the device's own node and that of iommufd, if the kernel is built with both."""
    found = [
        name for name in entries(f"{asked.path}/vfio-dev") if os.path.exists(f"{asked.path}/vfio-dev/{name}/dev")
    ]
    if not found or not os.path.exists(f"{asked.sysfs}/class/misc/iommu"):
        return []
    return [same(f"/dev/vfio/devices/{name}") for name in found] + [same("/dev/iommu")]
