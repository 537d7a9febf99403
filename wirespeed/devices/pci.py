"""PCI network devices in sysfs: physical functions, virtual functions, drivers, IOMMU groups."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wirespeed.devices.device import Device
from wirespeed.kernel.sysfs import entries

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")

# Drivers for user space: a device with one of them has no netdev, an application in the pod drives it.
USERSPACE_DRIVERS = frozenset({"vfio-pci", "uio_pci_generic", "igb_uio"})

LINK_TYPES = {"1": "ether", "32": "infiniband"}  # ARPHRD_ETHER, ARPHRD_INFINIBAND of linux/if_arp.h

# phys_port_name: a PF in switchdev mode has the representors of VFs and SFs beside its own interface, the uplink.
_UPLINK = re.compile(r"p\d+")
_REPRESENTOR = re.compile(r"(c\d+)?pf\d+(vf|sf)\d+")


class PciDevice(Device):
    """A PCI device."""

    BUS = "pci"

    @property
    def vendor(self) -> str:
        """Four lower-case hex digits, without 0x."""
        return self.attribute("vendor").removeprefix("0x")

    @property
    def device(self) -> str:
        """Four lower-case hex digits, without 0x."""
        return self.attribute("device").removeprefix("0x")

    @property
    def is_in_user_space(self) -> bool:
        """Whether it has a driver for user space: one of USERSPACE_DRIVERS, or a vendor's own vfio driver."""
        return self.driver in USERSPACE_DRIVERS or self.is_on_vfio

    @property
    def is_on_vfio(self) -> bool:
        """Whether it is bound to vfio-pci, or to a vendor's own driver on the kernel's vfio core."""
        return self.driver == "vfio-pci" or os.path.exists(self._file("vfio-dev"))

    @property
    def iommu_group(self) -> str:
        """The IOMMU group's number, "" without one."""
        return self._link("iommu_group")

    @property
    def is_noiommu(self) -> bool:
        """Whether vfio itself created its IOMMU group, on a node without an IOMMU (vfio_noiommu_group_alloc)."""
        return self.attribute("iommu_group/name") == "vfio-noiommu"

    @property
    def numa_node(self) -> int:
        """The NUMA node, -1 where the firmware names none."""
        return self.number_attribute("numa_node", -1)

    @property
    def own_netdev(self) -> str:
        """Its own interface, not a representor of a VF or SF; "" without one (`netdevs` says which are visible)."""
        names, own = self.netdevs, ""
        if len(names) == 1:
            return names[0]
        for name in names:  # a PF with 128 VFs has 128 representors: stop at the uplink
            port = self.attribute(f"net/{name}/phys_port_name")
            if _UPLINK.fullmatch(port) and self.attribute(f"net/{name}/phys_switch_id"):
                return name
            if not own and not _REPRESENTOR.fullmatch(port):
                own = name
        return own

    @property
    def link_type(self) -> str:
        """The link type of its own interface: "ether" or "infiniband"; "" for any other, or without interface."""
        name = self.own_netdev
        return LINK_TYPES.get(self.attribute(f"net/{name}/type"), "") if name else ""

    @property
    def physical_function(self) -> PciDevice | None:
        """The PF of a VF, None for anything else."""
        address = self._link("physfn")
        return PciDevice(address, self.sysfs) if address else None

    @property
    def vf_index(self) -> int:
        """The VF's number on its PF (N of the PF's `virtfnN`), -1 if the device is no VF."""
        pf = self.physical_function
        if pf is None:
            return -1
        index = self._index_by_routing_id(pf)
        if index >= 0 and pf.virtual_function(index) == self.address:
            return index
        return next((n for n, vf in pf.virtual_functions() if vf == self.address), -1)

    def _index_by_routing_id(self, pf: PciDevice) -> int:
        """Compute its number from the PF's First VF Offset and VF Stride (SR-IOV specification); -1 if impossible.

        Reading all links of a PF with 128 VFs instead takes a millisecond.
        """
        offset, stride = pf.number_attribute("sriov_offset", 0), pf.number_attribute("sriov_stride", 0)
        distance = _routing_id(self.address) - _routing_id(pf.address) - offset
        return distance // max(stride, 1) if offset and distance >= 0 else -1

    @property
    def total_vfs(self) -> int:
        """How many VFs the hardware offers; 0 without SR-IOV."""
        return self.number_attribute("sriov_totalvfs", 0)

    @property
    def num_vfs(self) -> int:
        """How many VFs there are now."""
        return self.number_attribute("sriov_numvfs", 0)

    def virtual_function(self, index: int) -> str:
        """Return the PCI address of the VF with that number, "" if there is none."""
        return self._link(f"virtfn{index}")

    def virtual_functions(self) -> list[tuple[int, str]]:
        """Return (index, PCI address) of the existing VFs, by index."""
        links = {name: self._link(name) for name in self.entries("") if name.startswith("virtfn")}
        return sorted((int(name.removeprefix("virtfn")), address) for name, address in links.items() if address)


def _routing_id(address: str) -> int:
    """Return the PCI routing id: bus, device and function as one number."""
    _, bus, slot = address.split(":")
    device, function = slot.split(".")
    return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def network_devices(sysfs: Path = Path("/sys")) -> list[PciDevice]:
    """Return all PCI network controllers (class 0x02xxxx), sorted by address."""
    devices = (PciDevice(address, sysfs) for address in entries(f"{sysfs}/bus/pci/devices"))
    return [device for device in devices if device.attribute("class").startswith("0x02")]
