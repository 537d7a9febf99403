"""A device of one of the kernel's buses in sysfs: its attributes, its driver and its network interfaces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wirespeed.kernel.sysfs import attribute_number, attribute_text, entries, link_name, parent_name


@dataclass(frozen=True)
class Device:
    """A device, read from `<sysfs>/bus/<BUS>/devices/<address>` whenever a property is asked for.

    `address` is its name on the bus, which is also the `Link.parent` of its network interface.
    """

    BUS: ClassVar[str]

    address: str
    sysfs: Path = Path("/sys")

    @property
    def path(self) -> Path:
        return self.sysfs / "bus" / self.BUS / "devices" / self.address

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def _file(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.sysfs}/bus/{self.BUS}/devices/{self.address}/{name}"

    def attribute(self, name: str, default: str = "") -> str:
        """Return the text of a sysfs attribute, stripped; `default` if it does not exist or cannot be read."""
        return attribute_text(self._file(name), default)

    def number_attribute(self, name: str, default: int) -> int:
        """Return the decimal number in a sysfs attribute; `default` if it cannot be read or is none."""
        return attribute_number(self._file(name), default)

    def _link(self, name: str) -> str:
        """Return the last part of a symlink's target, "" if there is no symlink."""
        return link_name(self._file(name))

    @property
    def driver(self) -> str:
        """The bound driver's name, "" when there is none."""
        return self._link("driver")

    @property
    def is_in_user_space(self) -> bool:
        """Whether its driver leaves it to an application instead of creating a network interface."""
        return False

    @property
    def parent(self) -> str:
        """The name of its parent device, "" if the device does not exist."""
        return parent_name(f"{self.sysfs}/bus/{self.BUS}/devices/{self.address}")

    @property
    def netdevs(self) -> list[str]:
        """Names of its network interfaces in the network namespace that sysfs was mounted in, sorted."""
        return self.entries("net")

    def entries(self, folder: str) -> list[str]:
        """Return the entries of one of its folders, sorted; empty if there is no such folder."""
        return entries(self._file(folder))

    @property
    def has_netdevs_elsewhere_only(self) -> bool:
        """Whether it has network interfaces, but all of them are in other network namespaces.

        The kernel creates the folder `net` with the first interface and removes it with the last one
        (drivers/base/core.c, get_device_parent and cleanup_glue_dir). An interface in another namespace keeps the
        folder, but is not listed in it.
        """
        return os.path.isdir(self._file("net")) and not self.netdevs
