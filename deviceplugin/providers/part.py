"""What a provider is: what it tells a container of a device, and the nodes that it gives for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.host.inventory import AUXILIARY, NetDevice

Node = tuple[str, str]  # its path in the container and on the host


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A device that a container gets: of which pool, taken by which of its selectors."""

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
        """The folder of the node's device nodes, beside sysfs."""
        return f"{os.path.dirname(self.sysfs.rstrip('/'))}/dev"


@dataclass(frozen=True)
class Part:
    """What one provider adds: under which key it is told, what, and which nodes it takes."""

    key: str
    info: Mapping[str, str]
    nodes: tuple[Node, ...] = field(default=())


# None where it has nothing to add. Raises CniError(DEVICE) when the device has not the node that it should have.
Provider = Callable[[Asked], Part | None]


def same(path: str) -> Node:
    """A node that has the same path in the container and on the host."""
    return path, path


def names(folder: str) -> list[str]:
    """The entries of a folder, sorted; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def text(path: str) -> str:
    """The text of an attribute, stripped; "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
