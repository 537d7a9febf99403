"""Health of the pools' devices: finds the faults for which the kubelet must not allocate a device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from wirespeed.devices.inventory import NETWORK, Inventory, NetDevice
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.sysfs import entries

# The faults that a pool can select, in the order of the checks; the first one found is the reported reason.
Reason = Literal[
    "gone",  # the device or its PF is gone; not a VF that was removed by changing the number of VFs
    "driver",  # it lost the driver with which it was offered, and no other pool takes it as it is now
    "pcie",  # it or its PF had a fatal PCIe error within the last minute, or the PF does not respond at all
    "devlink",  # a devlink health reporter of it or its PF is in error (only reporters that can recover)
    "vfio",  # on vfio-pci, but its IOMMU group has no node in /dev/vfio, or has a device on a kernel driver
    "link",  # the PF of a VF is down, or has no carrier
]
REASONS: tuple[Reason, ...] = get_args(Reason)

_RECOVERY_TIME = 60.0  # seconds without a fatal PCIe error after which a responding device counts as recovered
_IFF_UP = 1
_MAY_SHARE = frozenset({"", "pcieport", "pci-stub"})  # drivers other than vfio that keep an IOMMU group viable


@dataclass(frozen=True, order=True)
class Fault:
    """A fault: its reason (one of REASONS) and a description for people."""

    reason: str
    text: str


class Health:
    """Checks devices in `sysfs`, and vfio nodes in the folder `dev` beside it. Not thread-safe."""

    def __init__(
        self,
        sysfs: str = "/sys",
        *,
        reporters: Callable[[], Mapping[str, Sequence[str]]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reporters` returns the names of the health reporters in error, by device."""
        self.vfio = os.path.join(os.path.dirname(sysfs.rstrip("/")), "dev/vfio")
        self._sysfs = Path(sysfs)
        self._pci = f"{sysfs}/bus/pci/devices"
        self._reporters, self._clock = reporters, clock
        self._nodes_appear = False
        self._errors: dict[str, int] = {}  # number of fatal PCIe errors by device
        self._recent: dict[str, float] = {}  # time (`clock`) of the last one, if less than _RECOVERY_TIME ago
        self._reported: Mapping[str, Sequence[str]] = {}
        self._parents: dict[str, tuple[str, str]] = {}  # faults of PFs at the last `refresh`: (link, PCIe)

    def refresh(self, devices: Mapping[str, NetDevice]) -> None:
        """Check what devices have in common (PFs, health reporters, /dev), for `fault`."""
        self._nodes_appear = self._nodes_appear_in_dev()
        self._reported = self._reporters()
        parents = {_parent(device) for device in devices.values()}
        self._errors = {key: count for key, count in self._errors.items() if key in parents or key in devices}
        self._recent = {key: last for key, last in self._recent.items() if key in self._errors}
        self._parents = {address: self._pf_faults(address) for address in sorted(parents)}

    def needs_refresh(self) -> bool:
        """Whether a new `refresh` is needed: a PF's faults changed, or a PCIe error is _RECOVERY_TIME ago."""
        now = self._clock()
        if any(now - last >= _RECOVERY_TIME for last in self._recent.values()):
            return True
        return any(self._pf_faults(address) != seen for address, seen in self._parents.items())

    def fault(self, device: NetDevice, wanted: Collection[str]) -> Fault | None:
        """Return the first fault of an existing device among the wanted reasons."""
        link, pcie = self._parents.get(_parent(device), ("", ""))
        checks: tuple[tuple[str, Callable[[], str]], ...] = (
            ("pcie", lambda: self._fatal_error(device.address) or pcie),
            ("devlink", lambda: self._reporter_fault(device.address) or self._reporter_fault(device.pf)),
            ("vfio", lambda: self._vfio_fault(device)),
            # Only for VFs: a PF in a pool is down while it is free, and not visible here while a pod has it.
            ("link", lambda: link if device.pf else ""),
        )
        found = ((reason, check()) for reason, check in checks if reason in wanted)
        return next((Fault(reason, text) for reason, text in found if text), None)

    def lost(self, device: NetDevice, inventory: Inventory, wanted: Collection[str]) -> Fault | None:
        """Return the fault by which a pool lost a device; None if it was removed on purpose, or if not wanted."""
        now = inventory.devices.get(device.address)
        driver = PciDevice(device.address, self._sysfs).driver
        if not os.path.exists(f"{self._pci}/{device.address}"):
            reason, text = "gone", self._gone(device)
        elif not driver:
            reason, text = "driver", f"no driver is bound; it had {device.driver}"
        elif now and driver != device.driver:
            reason, text = "driver", f"driver {driver} is bound; it had {device.driver}"
        else:
            return None
        return Fault(reason, text) if text and reason in wanted else None

    def _gone(self, device: NetDevice) -> str:
        if not device.pf:
            return "gone"
        pf = PciDevice(device.pf, self._sysfs)
        if not pf.exists:
            return f"gone with its PF {device.pf}"
        if not pf.driver:
            return f"gone, because its PF {device.pf} has no driver"
        if device.kind == NETWORK and pf.virtual_function(device.vf_index):
            return f"gone, although its PF {device.pf} still lists it"
        return ""  # the PF's number of VFs was changed on purpose

    def _pf_faults(self, address: str) -> tuple[str, str]:
        return self._link_fault(address), self._fatal_error(address) or self._no_response(address)

    def _link_fault(self, address: str) -> str:
        """Return why the PF has no link. Read operstate, because reading `carrier` waits for the RTNL lock."""
        pf = PciDevice(address, self._sysfs)
        name = pf.own_netdev
        flags, state = pf.attribute(f"net/{name}/flags"), pf.attribute(f"net/{name}/operstate")
        if flags and not int(flags, 16) & _IFF_UP:
            return f"PF {name} is down"
        return f"PF {name} has no carrier" if state in {"down", "lowerlayerdown"} else ""

    def _fatal_error(self, address: str) -> str:
        """Return a recent fatal PCIe error that came after the first `refresh`; AER counts them since boot."""
        text = PciDevice(address, self._sysfs).attribute("aer_dev_fatal")
        count = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("TOTAL_ERR")), 0)
        now = self._clock()
        if count > self._errors.setdefault(address, count):
            self._errors[address], self._recent[address] = count, now
        if now - self._recent.get(address, now) >= _RECOVERY_TIME:
            del self._recent[address]
        return f"{address}: fatal PCIe error ({count} since boot)" if address in self._recent else ""

    def _no_response(self, address: str) -> str:
        """Return a fault if the PF's config space reads as all ones.

        Not usable for VFs, whose vendor ID always reads so (SR-IOV specification, VF Vendor ID).
        """
        try:
            with open(f"{self._pci}/{address}/config", "rb", buffering=0) as file:
                silent = file.read(4) == b"\xff\xff\xff\xff"
        except OSError:
            return ""
        return f"{address} does not answer" if silent else ""

    def _reporter_fault(self, address: str) -> str:
        names = ", ".join(self._reported.get(address, ()))
        return f"{address}: health reporter {names} is in error" if names else ""

    def _vfio_fault(self, device: NetDevice) -> str:
        if device.driver != "vfio-pci" or not device.iommu_group:
            return ""
        group = f"{self._pci}/{device.address}/iommu_group"
        noiommu = PciDevice(device.address, self._sysfs).is_noiommu
        node = f"{self.vfio}/{'noiommu-' if noiommu else ''}{device.iommu_group}"
        if self._nodes_appear and not os.path.exists(node):
            return f"no node {node}"
        for neighbour in entries(f"{group}/devices") if not noiommu else ():
            driver = PciDevice(neighbour, self._sysfs).driver
            if driver not in _MAY_SHARE and "vfio" not in driver:
                return f"IOMMU group {device.iommu_group} is not viable: {neighbour} in it is on {driver}"
        return ""

    def _nodes_appear_in_dev(self) -> bool:
        """Whether new nodes appear in `dev`: a container's own /dev is a tmpfs that is filled only once."""
        dev = os.path.dirname(self.vfio)
        if not os.path.isdir(dev):
            return False
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return next((kind for _, path, kind, *_ in reversed(mounts) if path == dev), "") != "tmpfs"


def _parent(device: NetDevice) -> str:
    return device.pf or device.address
