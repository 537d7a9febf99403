"""The data of a network function that a pod gets: a VF or a scalable function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wirespeed.devices import switchdev
from wirespeed.devices.device import Device
from wirespeed.devices.functions import Function
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.kernel.ethtool import Spread
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.vf import VfSettings

VF, SCALABLE = "VF", "scalable function"


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF or a scalable function: number `index` of the PF `pf`, whose netdev has the ifindex `pf_index`.

    `driver` is the function's driver, `link` its netdev on the host (None on vfio). `queues` is the number of
    queues in use and `spread` the RSS configuration (None if the driver does not report it). `settings` are the
    function's settings on the PF, `held` those of all VFs by number. `vdpa` is the vdpa device that the pod gets
    instead of the function itself, None for none. `pf_fault` is the reason why the settings on the PF are not
    accessible ("": they are). `pf_mtu` is in bytes. `infiniband` is whether the netdev of the PF or of the function
    is InfiniBand.
    """

    device: Function
    pf: PciDevice
    index: int
    driver: str
    settings: VfSettings = field(default_factory=VfSettings)
    kind: str = VF
    pf_index: int = 0
    pf_mtu: int = 0
    pf_fault: str = ""
    infiniband: bool = False
    held: Mapping[int, VfSettings] = field(default_factory=dict)
    link: Link | None = None
    queues: int | None = None
    spread: Spread | None = None
    vdpa: VdpaDevice | None = None

    @property
    def where(self) -> str:
        place = f"{self.kind} {self.index} of PF {self.pf.address}, driver {self.driver or 'none'}"
        return f"{self.kind} {self.device.address} ({place})"

    @property
    def pci_address(self) -> str:
        """Its PCI address, "" if it is not a PCI device (a scalable function)."""
        return self.device.address if isinstance(self.device, PciDevice) else ""

    @property
    def is_in_user_space(self) -> bool:
        """Whether it has no netdev because an application drives it."""
        return self.device.is_in_user_space or (self.vdpa is not None and self.vdpa.virtio is None)

    @property
    def owner(self) -> Device:
        """The parent device of its netdev, by which the netdev is found in any namespace."""
        return (self.vdpa and self.vdpa.virtio) or self.device

    @property
    def representor(self) -> str:
        """The name of its representor on the NIC's embedded switch, "" without one."""
        kind = switchdev.VF if self.kind == VF else switchdev.SF
        return switchdev.representor(self.pf, kind, self.index)
