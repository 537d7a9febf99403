"""VFs and scalable functions, by the device ids under which the kubelet allocates them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from wirespeed.devices.device import Device
from wirespeed.devices.pci import ADDRESS, PciDevice
from wirespeed.errors import Error, Kind, Thing
from wirespeed.structs import Words, whole

SCALABLE = re.compile(r"[A-Za-z0-9_-]{1,64}\.sf\.[0-9]{1,10}")  # linux/auxiliary_bus.h: <module>.<type>.<number>
EXPECTED = "a PCI address like 0000:03:02.0, or a scalable function like mlx5_core.sf.4"
# A device id in a configuration, in any case; "" is none.
DeviceId = Annotated[
    str,
    Meta(pattern=whole(rf"{ADDRESS.pattern.replace('a-f', 'a-fA-F')}|{SCALABLE.pattern}|")),
    Words(EXPECTED, "PCI address, or `mlx5_core.sf.4`"),
]


class ScalableFunction(Device):
    """A scalable function of a PF: a device on the auxiliary bus, "mlx5_core.sf.4"."""

    BUS = "auxiliary"

    @property
    def physical_function(self) -> PciDevice | None:
        """The PF that it belongs to, None if the function does not exist."""
        return PciDevice(self.parent, self.sysfs) if self.parent else None

    @property
    def number(self) -> int:
        """Its number on the PF, assigned by devlink (sysfs `sfnum`); -1 if the driver does not report it."""
        return self.number_attribute("sfnum", -1)


Function = PciDevice | ScalableFunction


def canonical(name: object) -> str:
    """Return a device id as the kernel writes it, "" if `name` is not a device id."""
    if not isinstance(name, str):
        return ""
    return name.lower() if ADDRESS.fullmatch(name.lower()) else name if SCALABLE.fullmatch(name) else ""


def of_id(name: str, sysfs: Path) -> Function:
    """Return the device with a canonical id."""
    return ScalableFunction(name, sysfs) if SCALABLE.fullmatch(name) else PciDevice(name, sysfs)


def pf_of(device: Function) -> PciDevice:
    """Return the PF of a VF or scalable function. Raises Error(DEVICE) if it is neither, or not there."""
    if (pf := device.physical_function) is not None:
        return pf
    what = "it is not an SR-IOV virtual function" if device.exists else f"there is no such {device.BUS} device"
    raise Error(Kind.DEVICE, what, where=Thing("device", device.address))
