"""What PFs and VFs this node has now, and who uses a VF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision import eswitch, udev, vdpa
from provision.policy import PfIdentity
from wirespeed.host import pci
from wirespeed.host.pci import PciDevice
from wirespeed.host.routes import default_route_interfaces
from wirespeed.host.rtnl import Link, Rtnl
from wirespeed.host.vdpa import VHOST, VIRTIO, VdpaDevice
from wirespeed.host.vfio import vdpa_users, vfio_users


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF now. `netdev` is its interface on the host ("" for none), `user` who uses it ("" for nobody).

    `vdpa` is its vdpa device, `vdpa_type` "virtio", "vhost", "none" without a driver; both "" where there is none.
    """

    address: str
    index: int
    driver: str
    netdev: str
    mac: str
    mtu: int
    numa_node: int
    iommu_group: str
    in_user_space: bool = False
    vdpa: str = ""
    vdpa_type: str = ""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Pf:
    """A PF now.

    `model` is for people, `mtu` in bytes; `link_type` is "ether", "infiniband" or "", `eswitch` "legacy" or
    "switchdev".
    """

    address: str
    name: str
    altnames: tuple[str, ...]
    driver: str
    vendor: str
    device: str
    model: str
    numa_node: int
    total_vfs: int
    mtu: int
    up: bool
    link_type: str
    eswitch: str
    vfs: tuple[Vf, ...] = ()

    @property
    def where(self) -> str:
        return f"PF {self.name} ({self.address})" if self.name else f"PF {self.address}"

    @property
    def identity(self) -> PfIdentity:
        return PfIdentity(
            address=self.address,
            vendor=self.vendor,
            device=self.device,
            names=(self.name, *self.altnames) if self.name else (),
            link_type=self.link_type,
            total_vfs=self.total_vfs,
        )


@dataclass
class Users:
    """Who uses devices, from several sources; each maps a PCI address to a text that says who."""

    owners: Mapping[str, str] = field(default_factory=dict)  # of the journal and of the kubelet
    groups: Mapping[str, str] = field(default_factory=dict)  # who has /dev/vfio/<group> open
    vdpas: Mapping[str, str] = field(default_factory=dict)  # who has a node /dev/vhost-vdpa-<number> open
    routed: frozenset[str] = frozenset()  # interfaces that carry a default route


def read(sysfs: Path = Path("/sys"), *, owners: Mapping[str, str] | None = None) -> list[Pf]:
    """The PFs of this node, those with SR-IOV, by address. `owners` says who was given a device. Raises OSError."""
    users = Users(owners or {}, vfio_users(), vdpa_users(), frozenset(default_route_interfaces()))
    vdpas = vdpa.of_devices(sysfs)
    with Rtnl() as host:
        return [
            _pf(device, host, users, vdpas)
            for device in pci.network_devices(sysfs)
            if device.total_vfs and device.exists
        ]


def find(pfs: Iterable[Pf], name: str) -> Pf | None:
    """The PF of that address, name or alternative name."""
    return next((pf for pf in pfs if name in (pf.address, pf.name, *pf.altnames)), None)


def _pf(device: PciDevice, host: Rtnl, users: Users, vdpas: Mapping[str, VdpaDevice]) -> Pf:
    name = device.own_netdev
    link = host.link(name) if name else None
    return Pf(
        address=device.address,
        name=name,
        altnames=link.altnames if link else (),
        driver=device.driver,
        vendor=device.vendor,
        device=device.device,
        model=udev.model(device.address),
        numa_node=device.numa_node,
        total_vfs=device.total_vfs,
        mtu=link.mtu if link else 0,
        up=link.up if link else False,
        link_type=device.link_type,
        eswitch=eswitch.mode(device),
        vfs=tuple(
            _vf(index, PciDevice(address, device.sysfs), host, users, vdpas.get(address))
            for index, address in device.virtual_functions()
        ),
    )


def _vf(index: int, device: PciDevice, host: Rtnl, users: Users, made: VdpaDevice | None) -> Vf:
    name = device.own_netdev
    link = host.link(name) if name else None
    return Vf(
        address=device.address,
        index=index,
        driver=device.driver,
        netdev=name,
        mac=link.mac if link else "",
        mtu=link.mtu if link else 0,
        numa_node=device.numa_node,
        iommu_group=device.iommu_group,
        in_user_space=device.is_in_user_space,
        vdpa=made.address if made else "",
        vdpa_type=(made.kind or "none") if made else "",
        user=_user(device, link, host, users) or (_user_of_vdpa(made, host, users) if made else ""),
    )


def _user(device: PciDevice, link: Link | None, host: Rtnl, users: Users) -> str:
    """Who uses the VF, "" for nobody."""
    if owner := users.owners.get(device.address):
        return owner
    if device.is_in_user_space:
        return users.groups.get(device.iommu_group, "")
    if link is None:
        return "its interface is in another network namespace" if device.driver else ""
    return _user_of_interface(link, host, users)


def _user_of_vdpa(made: VdpaDevice, host: Rtnl, users: Users) -> str:
    """Who uses the vdpa device that was made of a VF, "" for nobody."""
    if made.kind == VHOST:
        return users.vdpas.get(made.node, "")
    if made.kind != VIRTIO or made.virtio is None:
        return ""
    link = next(filter(None, map(host.link, made.virtio.netdevs)), None)
    if link is None:
        return "the interface of its vdpa device is in another network namespace"
    return _user_of_interface(link, host, users)


def _user_of_interface(link: Link, host: Rtnl, users: Users) -> str:
    if link.master:
        master = host.link(link.master)
        return f"its interface {link.name} is a port of {master.name if master else link.master}"
    if link.name in users.routed:
        return f"its interface {link.name} carries a default route"
    addresses = [each.cidr for each in host.addresses(link.index) if not each.cidr.startswith("fe80:")]
    return f"its interface {link.name} has the address {addresses[0]}" if addresses else ""
