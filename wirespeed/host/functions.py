"""VFs and scalable functions, by the ids under which the kubelet hands them out."""

from __future__ import annotations

import re
from pathlib import Path

from wirespeed.host.device import Device
from wirespeed.host.pci import ADDRESS, PciDevice

SCALABLE = re.compile(r"[A-Za-z0-9_-]{1,64}\.sf\.[0-9]{1,10}")  # linux/auxiliary_bus.h: <module>.<type>.<number>
EXPECTED = "a PCI address like 0000:03:02.0, or a scalable function like mlx5_core.sf.4"


class ScalableFunction(Device):
    """A part of a PF that is a device of the auxiliary bus, "mlx5_core.sf.4"."""

    BUS = "auxiliary"

    @property
    def physical_function(self) -> PciDevice | None:
        """The PF that it is a part of, None when it is not there."""
        return PciDevice(self.parent, self.sysfs) if self.parent else None

    @property
    def number(self) -> int:
        """The number that devlink gave it on its PF, -1 where the driver does not tell."""
        return int(self.attribute("sfnum", "-1"))


Function = PciDevice | ScalableFunction


def canonical(name: object) -> str:
    """An id as the kernel writes it; "" for what is none."""
    if not isinstance(name, str):
        return ""
    return name.lower() if ADDRESS.fullmatch(name.lower()) else name if SCALABLE.fullmatch(name) else ""


def named(name: str, sysfs: Path) -> Function:
    """The device of a canonical id."""
    return ScalableFunction(name, sysfs) if SCALABLE.fullmatch(name) else PciDevice(name, sysfs)
