"""Device-info files of allocated devices (NPWG device-info specification 1.1.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.pools import matching_selectors
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices import switchdev
from wirespeed.devices.inventory import NETWORK, NetDevice
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vdpa import vhost_node
from wirespeed.kube import deviceinfo


def device_info(pool: PoolConfig, device: NetDevice, sysfs: str) -> dict[str, Any] | None:
    """Return the device-info of a device of the pool: type vdpa if its selector has vdpaType, else type pci.

    None for accelerators and scalable functions, for which the specification has no type.
    """
    if device.kind != NETWORK:
        return None
    selectors = matching_selectors(pool, device) or Selectors()
    pf = {"pf_pci_address": device.pf, "representor_device": _representor(device, sysfs)}
    if selectors.vdpa_type:
        node = vhost_node(sysfs, device.vdpa) if selectors.vdpa_type == "vhost" else ""
        return deviceinfo.vdpa_info(device.vdpa, selectors.vdpa_type, path=node, pci_address=device.address, **pf)
    rdma = ",".join(device.rdma) if selectors.is_rdma else ""
    return deviceinfo.pci_info(device.address, rdma_device=rdma, **pf)


def _representor(device: NetDevice, sysfs: str) -> str:
    if device.vf_index < 0:
        return ""
    return switchdev.representor(PciDevice(device.pf, Path(sysfs)), switchdev.VF, device.vf_index)
