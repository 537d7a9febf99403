"""The current state of a network function that a pod can get: a VF or a scalable function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import netdev, switchdev, vdpa
from wirespeed.devices.device import Device
from wirespeed.devices.functions import Function, ScalableFunction
from wirespeed.devices.pci import USERSPACE_DRIVERS, PciDevice
from wirespeed.devices.vdpa import VHOST, VdpaDevice
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import Spread
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
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


def find(host: Rtnl, device: Function, *, rebinding: bool = False) -> Vf:
    """Read the device's current state; with `rebinding`, it may be without a driver because it will get one.

    Raises CniError: DEVICE that names what was found instead, INVALID_CONFIG for rebinding one with a vdpa device.
    """
    pf = device.physical_function
    if pf is None:
        none = f"there is no such {device.BUS} device"
        fault = "expected an SR-IOV virtual function, it is none" if device.exists else none
        raise CniError(Code.DEVICE, f"device {device.address}: {fault}")
    vf = _with_vdpa(without_netdev(host, device, pf))
    if rebinding and vf.vdpa is not None:
        raise CniError(
            Code.INVALID_CONFIG,
            f'{vf.where}: key "driver": expected none: its vdpa device {vf.vdpa.address} would be gone',
        )
    if vf.is_in_user_space or (rebinding and not vf.driver):
        return vf
    link = netdev.on_host(host, vf.owner)
    if link is None:
        raise CniError(
            Code.DEVICE,
            f"device {device.address}: driver {vf.driver or 'none'}, no network interface on the host; expected "
            f"one (is it in another namespace?) or a driver of {', '.join(sorted(USERSPACE_DRIVERS))}",
        )
    if link.master:
        port_of = host.link(link.master)
        raise CniError(
            Code.DEVICE,
            f"{vf.where}: its interface {link.name} is a port of {port_of.name if port_of else link.master} "
            "on the host; expected one that nothing uses",
        )
    found = ethtool.queues(link.name)
    return replace(
        vf,
        link=link,
        infiniband=vf.infiniband or link.infiniband,
        queues=found.count if found else None,
        spread=ethtool.spread(link.name),
    )


def without_netdev(host: Rtnl, device: Function, pf: PciDevice) -> Vf:
    """Return the function, without its netdev."""
    return _scalable(device, pf) if isinstance(device, ScalableFunction) else _virtual(host, device, pf)


def _scalable(device: ScalableFunction, pf: PciDevice) -> Vf:
    """Return the function, without its netdev."""
    return Vf(
        device=device,
        pf=pf,
        index=device.number,
        driver=device.driver,
        kind=SCALABLE,
        pf_fault="what a PF holds for its VFs it does not hold for a scalable function",
    )


def _virtual(host: Rtnl, device: PciDevice, pf: PciDevice) -> Vf:
    """Return the VF without its netdev, with its settings on the PF if these are accessible.

    Raises CniError(TRY_AGAIN_LATER) if the PF's driver reports other VFs but not this one.
    """
    index = device.vf_index
    vf = Vf(device=device, pf=pf, index=index, driver=device.driver)
    link = host.link(name, vfs=True) if (name := pf.own_netdev) else None
    if link is None:
        fault = f"PF {pf.address} (driver {pf.driver or 'none'}) has no network interface on the host"
        return replace(vf, pf_fault=fault)
    vf = replace(vf, pf_mtu=link.mtu, infiniband=link.infiniband)
    if not link.vfs:
        return replace(vf, pf_fault=f"the driver of PF {pf.address} ({link.name}) tells of none of its VFs")
    return replace(vf, settings=link.vf(index), pf_index=link.index, held=link.vfs)


def _with_vdpa(vf: Vf) -> Vf:
    """Return the function with its current vdpa device, if it has one.

    Raises CniError(DEVICE) for a device on vhost_vdpa without a node.
    """
    found = vdpa.made_of(vf.device)
    if found is not None and found.kind == VHOST and not found.node:
        raise CniError(Code.DEVICE, f"{vf.where}: its vdpa device {found.address} has no vhost-vdpa node")
    return replace(vf, vdpa=found)
