"""vdpa devices of VFs: found in sysfs; created and deleted by netlink; bound to a driver of the vdpa bus."""

from __future__ import annotations

from pathlib import Path

from wirespeed.cni.errors import CniError
from wirespeed.host import drivers
from wirespeed.host.netlink.errors import NetlinkError, as_device_error
from wirespeed.host.netlink.vdpa import Vdpa
from wirespeed.host.vdpa import VdpaDevice, devices

# Queue pairs of a vdpa device, if its management device lets them be chosen. The SR-IOV network operator's value.
_QUEUE_PAIRS = 32


def of_devices(sysfs: Path = Path("/sys")) -> dict[str, VdpaDevice]:
    """Return the first vdpa device of each parent device, by the parent's name: for a VF, its PCI address."""
    found: dict[str, VdpaDevice] = {}
    for made in devices(sysfs):
        found.setdefault(made.parent, made)
    return found


def make(maker: str, name: str, kind: str, sysfs: Path = Path("/sys")) -> None:
    """Create a vdpa device from the management device `maker` ("pci/0000:03:00.2", or a name without a bus).

    It is bound to the driver for `kind`, and deleted if that fails. Raises CniError(DEVICE).
    """
    where = f"vdpa device {name} of {maker}"
    bus, _, device = maker.rpartition("/")
    with as_device_error(where), Vdpa() as netlink:
        try:
            netlink.create(name, bus, device, queue_pairs=_QUEUE_PAIRS)
        except NetlinkError:  # the management device supports fewer pairs or no choice
            netlink.create(name, bus, device)
    try:
        # The kernel has bound it to whichever driver of the vdpa bus was registered first.
        drivers.bind(VdpaDevice(name, sysfs), f"{kind}_vdpa")
    except CniError:
        delete(name, sysfs)
        raise


def delete(name: str, sysfs: Path = Path("/sys")) -> None:
    """Delete a vdpa device, if it exists. Raises CniError(DEVICE)."""
    if VdpaDevice(name, sysfs).exists:
        with as_device_error(f"vdpa device {name}"), Vdpa() as netlink:
            netlink.delete(name)
