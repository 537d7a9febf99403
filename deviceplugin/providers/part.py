"""The interface of the providers: input, and output as information and device nodes for the container."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import AUXILIARY, NetDevice

Node = tuple[str, str]  # its path in the container and on the host


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A device that a container gets, its pool, and the pool's selectors that matched it."""

    device: NetDevice
    selectors: Selectors
    pool: PoolConfig
    sysfs: str

    @property
    def path(self) -> str:
        """The device's folder in sysfs."""
        bus = "auxiliary" if self.device.kind == AUXILIARY else "pci"
        return f"{self.sysfs}/bus/{bus}/devices/{self.device.address}"

    @property
    def dev(self) -> str:
        """The node's /dev folder, which is beside sysfs."""
        return f"{os.path.dirname(self.sysfs.rstrip('/'))}/dev"


@dataclass(frozen=True)
class Part:
    """What one provider adds: `info` under `key` in the variable PCIDEVICE_<RESOURCE>_INFO, and device nodes."""

    key: str
    info: Mapping[str, str]
    nodes: tuple[Node, ...] = field(default=())


# Returns None if it has nothing to add. Raises CniError(DEVICE) if an expected device node is missing.
Provider = Callable[[Asked], Part | None]


def same(path: str) -> Node:
    """Return a node with the same path in the container and on the host."""
    return path, path
