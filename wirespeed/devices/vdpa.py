"""vdpa devices in sysfs: virtio network devices on top of a VF or a scalable function."""

from __future__ import annotations

from pathlib import Path

from wirespeed.devices.device import Device
from wirespeed.kernel.sysfs import entries

VHOST, VIRTIO = "vhost", "virtio"


class VirtioDevice(Device):
    """A device of the virtio bus, "virtio0"."""

    BUS = "virtio"


class VdpaDevice(Device):
    """A device of the vdpa bus, "vdpa0"."""

    BUS = "vdpa"

    @property
    def kind(self) -> str:
        """VHOST if applications use it by its device node, VIRTIO if the kernel uses it, "" without a driver."""
        return self.driver.removesuffix("_vdpa")

    @property
    def node(self) -> str:
        """The device node that vhost_vdpa created for it, "/dev/vhost-vdpa-0"; "" without one."""
        return next((f"/dev/{entry}" for entry in self._children("vhost-vdpa-")), "")

    @property
    def virtio(self) -> VirtioDevice | None:
        """The virtio device that virtio_vdpa created for it, the parent of its network interface."""
        return next((VirtioDevice(entry, self.sysfs) for entry in self._children("virtio")), None)

    def _children(self, prefix: str) -> list[str]:
        return [entry for entry in self.entries("") if entry.startswith(prefix)]


def devices(sysfs: Path = Path("/sys")) -> list[VdpaDevice]:
    """Return all vdpa devices, sorted by name."""
    return [VdpaDevice(name, sysfs) for name in entries(f"{sysfs}/bus/{VdpaDevice.BUS}/devices")]


def by_parent(sysfs: Path) -> dict[str, VdpaDevice]:
    """Return the first vdpa device of each device that has one, by the device's name: for a VF, its PCI address."""
    return {vdpa.parent: vdpa for vdpa in reversed(devices(sysfs))}


def find_on(device: Device) -> VdpaDevice | None:
    """Return the first vdpa device on top of `device` that has a driver."""
    return next((vdpa for vdpa in devices(device.sysfs) if vdpa.parent == device.address and vdpa.driver), None)


def vhost_node(sysfs: str, name: str) -> str:
    """Return the device node of the vdpa device with that name, "" without one."""
    return VdpaDevice(name, Path(sysfs)).node if name else ""
