"""What a pod is given: a function of a network card, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wirespeed.host import switchdev
from wirespeed.host.device import Device
from wirespeed.host.ethtool import Spread
from wirespeed.host.functions import Function
from wirespeed.host.pci import PciDevice
from wirespeed.host.rtnl import Link, VfSettings
from wirespeed.host.vdpa import VdpaDevice

VF, SCALABLE = "VF", "scalable function"


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF, or a scalable function in its place: number `index` of the PF `pf`, `pf_index` that one's interface.

    `driver` is its own, `link` its netdev on the host (None on vfio) and `queues` how many that works with
    and `spread` how it receives with them (None: its driver does not tell), `settings` what the PF holds for it.
    `vdpa` is the vdpa device that it is given by, None where it is given as it is.
    `pf_fault` says why the PF's side can be neither read nor set ("": it can); `pf_mtu` is in bytes, `infiniband`
    whether the PF's interface, or its own, is one of InfiniBand, and `held` what the PF holds for each of its VFs.
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
        """Its own address on the PCI bus, "" for one that is none of its devices."""
        return self.device.address if isinstance(self.device, PciDevice) else ""

    @property
    def is_in_user_space(self) -> bool:
        """Whether it makes no netdev, for an application drives it."""
        return self.device.is_in_user_space or (self.vdpa is not None and self.vdpa.virtio is None)

    @property
    def owner(self) -> Device:
        """What its netdev belongs to, and is found by wherever it is."""
        return (self.vdpa and self.vdpa.virtio) or self.device

    @property
    def representor(self) -> str:
        """The interface that stands for it on the switch in its card, "" without one."""
        kind = switchdev.VF if self.kind == VF else switchdev.SF
        return switchdev.representor(self.pf, kind, self.index)
