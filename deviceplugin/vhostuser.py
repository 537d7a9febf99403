"""Pools of vhost-user devices: each device is a folder for sockets. The vhost plugin finds it by the device id."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wirespeed import errors
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.devices.inventory import NetDevice
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.plugins.vhost import sockets
from wirespeed.plugins.vhost.sockets import Folder


def devices(pool: PoolConfig) -> dict[str, NetDevice]:
    """Return the pool's devices by id, "<resourceName>-<number>"."""
    name = pool.resource.rpartition("/")[2]
    return {
        key: NetDevice(address=key, vendor="", device="", driver="", kind=VHOST_USER)
        for key in (f"{name}-{number}" for number in range(pool.count))
    }


def container_response(pool: PoolConfig, keys: Sequence[str], base: Path) -> Any:
    """Return the ContainerAllocateResponse: a mount of each device's folder, created anew, and a variable.

    The variable VHOSTUSER_<RESOURCE> has the folders' paths in the container, joined by commas. `base` is the
    node's `vhost.sockets`. Raises Error: IO, INVALID_CONFIG for an SELinux label that the node's policy lacks.
    """
    variable = "VHOSTUSER_" + re.sub(r"[^A-Z0-9]", "_", pool.resource.upper())
    response = dp.ContainerAllocateResponse(
        envs={variable: ",".join(sockets.inside_of_device(key) for key in keys)}
    )
    for key in keys:
        folder = sockets.of_device(base, key)
        _recreate(folder, pool)
        response.mounts.add(container_path=folder.inside, host_path=folder.path, read_only=False)
    return response


def _recreate(folder: Folder, pool: PoolConfig) -> None:
    """Create a new folder, so that a pod that had the device before has no access to the sockets."""
    try:
        shutil.rmtree(folder.path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise errors.as_error(error, f"folder for sockets {folder.path}") from error
    sockets.prepare(Folder(path=folder.path, ours=True), pool.access)
