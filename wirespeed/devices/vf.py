"""The current state of a network function that a pod can get: a VF or a scalable function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wirespeed.devices import netdev, switchdev, vdpa
from wirespeed.devices.device import Device
from wirespeed.devices.functions import Function, ScalableFunction, pf_of
from wirespeed.devices.pci import USERSPACE_DRIVERS, PciDevice
from wirespeed.devices.vdpa import VHOST, VdpaDevice
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings

VF, SCALABLE = "VF", "scalable function"


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF or a scalable function: number `index` of the PF `pf`, whose netdev has the ifindex `pf_index`.

    `driver` is the function's driver, `link` its netdev on the host (None on vfio). `queues` is the number of
    queues in use and `rss` the RSS configuration (None if the driver does not report it). `settings` are the
    function's settings on the PF, `vf_settings` those of all VFs by number. `vdpa` is the vdpa device that the pod
    gets instead of the function itself, None if there is none. `pf_fault` is why the settings on the PF are not
    accessible, "" if they are. `pf_mtu` is in bytes. `infiniband`: whether the netdev of the PF or of the function
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
    vf_settings: Mapping[int, VfSettings] = field(default_factory=dict)
    link: Link | None = None
    queues: int | None = None
    rss: RssConfig | None = None
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
    def netdev_device(self) -> Device:
        """The parent device of its netdev, by which the netdev is found in any namespace."""
        return (self.vdpa and self.vdpa.virtio) or self.device

    @property
    def representor(self) -> str:
        """The name of its representor on the NIC's embedded switch, "" without one."""
        kind = switchdev.VF if self.kind == VF else switchdev.SF
        return switchdev.representor(self.pf, kind, self.index)


def find(host: Rtnl, device: Function, *, rebinding: bool = False) -> Vf:
    """Read the state of a function that a pod is to get. With `rebinding`, it need not have a driver yet.

    Raises Error: DEVICE if its state does not allow that, INVALID_CONFIG for `rebinding` if it has a vdpa device.
    """
    vdpa_device = vdpa.find_on(device)
    vf = replace(read_without_netdev(host, device, pf_of(device)), vdpa=vdpa_device)
    if vdpa_device is not None and vdpa_device.kind == VHOST and not vdpa_device.node:
        raise Error(Kind.DEVICE, f"its vdpa device {vdpa_device.address} has no vhost-vdpa node", where=vf.where)
    if vdpa_device is not None and rebinding:
        what = f"another driver would remove its vdpa device {vdpa_device.address}"
        raise Error(Kind.INVALID_CONFIG, what, where=vf.where, key="driver", hint="remove the key")
    if vf.is_in_user_space or (rebinding and not vf.driver):
        return vf
    link = netdev.on_host(host, vf.netdev_device)
    if link is None:
        what = f"it has driver {vf.driver or 'none'} and no network interface on the host"
        expected = f"one (is it in another namespace?), or a driver of {', '.join(sorted(USERSPACE_DRIVERS))}"
        raise Error(Kind.DEVICE, what, where=Thing("device", device.address), expected=expected)
    if link.master:
        master = host.link(link.master)
        what = f"its interface {link.name} is a port of {master.name if master else link.master} on the host"
        raise Error(Kind.DEVICE, what, where=vf.where, expected="one that nothing uses")
    return _with_netdev(vf, link)


def read_any_state(host: Rtnl, device: PciDevice, pf: PciDevice, pf_link: Link | None) -> Vf:
    """Read the VF in any state, without its vdpa device.

    `pf_link` is the netdev of its PF, read with its VFs. Settings are None if the PF's driver does not report them.
    """
    vf = _vf_without_netdev(device, pf, pf_link)
    link = netdev.on_host(host, device)
    return vf if link is None else _with_netdev(vf, link)


def read_without_netdev(host: Rtnl, device: Function, pf: PciDevice) -> Vf:
    """Read the function, without its netdev.

    Raises Error(TRY_AGAIN) if the PF's driver reports other VFs but not this one.
    """
    if isinstance(device, ScalableFunction):
        fault = "a PF has no such settings for a scalable function"
        number, driver = device.number, device.driver
        return Vf(device=device, pf=pf, index=number, driver=driver, kind=SCALABLE, pf_fault=fault)
    link = host.link(name, vfs=True) if (name := pf.own_netdev) else None
    vf = _vf_without_netdev(device, pf, link)
    return vf if link is None or vf.pf_fault else replace(vf, settings=link.vf(vf.index))


def _with_netdev(vf: Vf, link: Link) -> Vf:
    found = ethtool.queues(link.name)
    return replace(
        vf,
        link=link,
        infiniband=vf.infiniband or link.infiniband,
        queues=found.count if found else None,
        rss=ethtool.read_rss(link.name),
    )


def _vf_without_netdev(device: PciDevice, pf: PciDevice, link: Link | None) -> Vf:
    """Return the VF without its netdev; `link` is the netdev of its PF, read with its VFs."""
    vf = Vf(device=device, pf=pf, index=device.vf_index, driver=device.driver)
    if link is None:
        fault = f"PF {pf.address} (driver {pf.driver or 'none'}) has no network interface on the host"
        return replace(vf, pf_fault=fault)
    vf = replace(vf, pf_mtu=link.mtu, infiniband=link.infiniband)
    if not link.vfs:
        return replace(vf, pf_fault=f"the driver of PF {pf.address} ({link.name}) reports none of its VFs")
    settings = link.vfs.get(vf.index, VfSettings())
    return replace(vf, settings=settings, pf_index=link.index, vf_settings=link.vfs)
