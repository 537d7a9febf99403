"""Builds the answer to Allocate: environment variables, and device nodes or CDI names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from wirespeed.deviceplugin.cdi import Specs, annotation
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.providers import parts
from wirespeed.devices.inventory import NetDevice
from wirespeed.kube.proto import deviceplugin_pb2 as dp


def container_response(
    pool: PoolConfig,
    devices: Sequence[NetDevice],
    sysfs: str,
    specs: Specs | None = None,
    *,
    annotate: bool = False,
) -> Any:
    """Return the ContainerAllocateResponse for devices of the pool, in the given order.

    With `specs`, it contains the devices' CDI names instead of device nodes, with `annotate` in an annotation.
    Raises Error: DEVICE if a device lacks the node that its driver should have created, IO.
    """
    provided = {device.address: parts(pool, device, sysfs) for device in devices}
    info = {address: {part.key: part.info for part in found} for address, found in provided.items()}
    variable = "PCIDEVICE_" + pool.resource.replace("/", "_").replace(".", "_").upper()
    response = dp.ContainerAllocateResponse(
        envs={variable: ",".join(device.address for device in devices), f"{variable}_INFO": _json(info)}
    )
    if specs is None:
        nodes = {host: path for found in provided.values() for part in found for path, host in part.nodes}
        for host, path in nodes.items():
            response.devices.add(container_path=path, host_path=host, permissions="rw")
        return response
    names = specs.allocate([(device, provided[device.address]) for device in devices])
    if annotate:
        response.annotations.update(annotation(names))
    else:
        response.cdi_devices.extend(dp.CDIDevice(name=name) for name in names)
    return response


def _json(value: object) -> str:
    """Encode JSON as Go does, because readers may compare bytes: compact, sorted keys, HTML characters escaped."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
