"""PCI network devices in sysfs: physical functions, virtual functions, drivers, IOMMU groups."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")

# Drivers that give a device to user space: such a device has no netdev and the pod drives it itself.
USERSPACE_DRIVERS = frozenset({"vfio-pci", "uio_pci_generic", "igb_uio"})


@dataclass(frozen=True)
class PciDevice:
    """One PCI device, read from `<sysfs>/bus/pci/devices/<address>` whenever a property is asked for."""

    address: str
    sysfs: Path = Path("/sys")

    @property
    def path(self) -> Path:
        return self.sysfs / "bus/pci/devices" / self.address

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def attribute(self, name: str, default: str = "") -> str:
        """The text of a sysfs attribute, stripped; `default` where the device has none or it cannot be read."""
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return default

    def _link(self, name: str) -> str:
        """The last part of what a symlink points to, "" without the symlink."""
        try:
            return os.path.basename(os.readlink(self.path / name))
        except OSError:
            return ""

    @property
    def vendor(self) -> str:
        """Four lower-case hex digits, without 0x."""
        return self.attribute("vendor").removeprefix("0x")

    @property
    def device(self) -> str:
        """Four lower-case hex digits, without 0x."""
        return self.attribute("device").removeprefix("0x")

    @property
    def driver(self) -> str:
        """The bound driver's name, "" when there is none."""
        return self._link("driver")

    @property
    def iommu_group(self) -> str:
        """The IOMMU group's number, "" without one."""
        return self._link("iommu_group")

    @property
    def numa_node(self) -> int:
        """The NUMA node, -1 where the firmware names none."""
        return int(self.attribute("numa_node", "-1"))

    @property
    def is_network(self) -> bool:
        """Whether the class is 0x02xxxx, a network controller."""
        return self.attribute("class").startswith("0x02")

    @property
    def netdevs(self) -> list[str]:
        """Names of its network interfaces in the network namespace that sysfs was mounted in, sorted."""
        try:
            return sorted(os.listdir(self.path / "net"))
        except OSError:
            return []

    @property
    def physical_function(self) -> PciDevice | None:
        """The PF of a VF, None for anything else."""
        address = self._link("physfn")
        return PciDevice(address, self.sysfs) if address else None

    @property
    def vf_index(self) -> int:
        """N of the `virtfnN` of its PF that is this VF, -1 when it is none."""
        pf = self.physical_function
        return -1 if pf is None else next((n for n, vf in pf.virtual_functions() if vf == self.address), -1)

    @property
    def total_vfs(self) -> int:
        """How many VFs the hardware offers; 0 without SR-IOV."""
        return int(self.attribute("sriov_totalvfs", "0"))

    @property
    def num_vfs(self) -> int:
        """How many VFs there are now."""
        return int(self.attribute("sriov_numvfs", "0"))

    def virtual_functions(self) -> list[tuple[int, str]]:
        """(index, PCI address) of the VFs that there are, by index."""
        found = []
        for name in os.listdir(self.path) if self.exists else []:
            if name.startswith("virtfn") and (address := self._link(name)):
                found.append((int(name.removeprefix("virtfn")), address))
        return sorted(found)


def network_devices(sysfs: Path = Path("/sys")) -> list[PciDevice]:
    """All PCI network controllers, by address."""
    try:
        addresses = sorted(os.listdir(sysfs / "bus/pci/devices"))
    except OSError:
        return []
    return [device for address in addresses if (device := PciDevice(address, sysfs)).is_network]
