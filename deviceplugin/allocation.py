"""What a container is told of its devices: variables and device nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from deviceplugin.config import PoolConfig
from wirespeed.cni.errors import CniError, Code
from wirespeed.host.inventory import NetDevice
from wirespeed.kube.proto import deviceplugin_pb2 as dp

_VFIO = "/dev/vfio/vfio"
_Node = tuple[str, str]  # its path in the container and on the host


def answer(pool: PoolConfig, devices: Sequence[NetDevice], sysfs: str) -> Any:
    """The ContainerAllocateResponse for devices of the pool, in the order given.

    Raises CniError(DEVICE) when a device has not the node that its driver should have made.
    """
    info: dict[str, dict[str, Mapping[str, str]]] = {}
    nodes: dict[str, str] = {}  # by their path on the host
    for device in devices:
        parts: dict[str, Mapping[str, str]] = {"generic": {"deviceID": device.address}}
        if pool.additional_info is not None:
            extra = pool.additional_info
            parts["extra"] = {**extra.get("*", {}), **extra.get(device.address, {})}
        name, values, needed = _driver_info(device, sysfs)
        if name:
            parts[name] = values
        nodes.update((host, container) for container, host in needed)
        info[device.address] = parts
    variable = "PCIDEVICE_" + pool.resource.replace("/", "_").replace(".", "_").upper()
    return dp.ContainerAllocateResponse(
        envs={variable: ",".join(device.address for device in devices), f"{variable}_INFO": _json(info)},
        devices=[
            dp.DeviceSpec(container_path=container, host_path=host, permissions="rw")
            for host, container in nodes.items()
        ],
    )


def _driver_info(device: NetDevice, sysfs: str) -> tuple[str, Mapping[str, str], list[_Node]]:
    """What the driver adds: the key of its part, the part, its nodes."""
    path = f"{sysfs}/bus/pci/devices/{device.address}"
    if device.driver == "vfio-pci":
        group = device.iommu_group
        if not group:
            raise CniError(Code.DEVICE, f"device {device.address}: on vfio-pci without an IOMMU group")
        node = f"/dev/vfio/{group}"
        host = f"/dev/vfio/noiommu-{group}" if _is_noiommu(path) else node
        return "vfio", {"dev-mount": node, "mount": _VFIO}, [(_VFIO, _VFIO), (node, host)]
    if device.driver in {"igb_uio", "uio"}:
        try:
            node = f"/dev/{min(os.listdir(f'{path}/uio'))}"
        except (OSError, ValueError):
            raise CniError(
                Code.DEVICE, f"device {device.address}: on {device.driver} without a uio device"
            ) from None
        return "uio", {"mount": node}, [(node, node)]
    return "", {}, []


def _is_noiommu(path: str) -> bool:
    try:
        with open(f"{path}/iommu_group/name", encoding="ascii") as file:
            return file.read().strip() == "vfio-noiommu"
    except OSError:
        return False


def _json(value: object) -> str:
    """JSON as Go writes it, whose readers may compare bytes: compact, keys sorted, HTML's characters escaped."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
