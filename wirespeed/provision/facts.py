"""The node's current PFs and VFs, and the user of each VF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wirespeed.devices import pci, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vdpa import VHOST, VIRTIO, VdpaDevice
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.routes import default_route_interfaces
from wirespeed.provision import eswitch, udev, vdpa
from wirespeed.provision.policy import PfIdentity


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF's current state. `netdev` is its interface on the host, `user` describes who uses it ("" for none).

    `driver_override` is the driver that an administrator reserved it for ("" for none).
    `settings` are its settings in the PF's driver, as far as the driver reports them. `vdpa` is the name of its
    vdpa device and `vdpa_type` its driver ("virtio", "vhost", "none"); both are "" without a vdpa device.
    """

    address: str
    index: int
    driver: str
    netdev: str
    mac: str
    mtu: int
    numa_node: int
    iommu_group: str
    up: bool = False
    driver_override: str = ""
    in_user_space: bool = False
    settings: VfSettings = field(default_factory=VfSettings)
    vdpa: str = ""
    vdpa_type: str = ""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Pf:
    """A PF's current state.

    `model` is its name in the hardware database, `mtu` is in bytes; `link_type` is "ether", "infiniband" or "",
    `eswitch` is as `eswitch.mode` returns it.
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
    """The sources that tell who uses devices."""

    owners: Mapping[str, str] = field(default_factory=dict)  # owner by PCI address, from journal and kubelet
    nodes: Mapping[str, str] = field(default_factory=dict)  # who has a node (/dev/vfio/42) open, by path
    routed: frozenset[str] = frozenset()  # interfaces that carry a default route
    # Whether a VF with a kernel driver but no interface counts as used: its interface is in an unknown namespace.
    missing: bool = True


def _users(owners: Mapping[str, str], *, missing: bool = True) -> Users:
    return Users(owners, vfio.users(), frozenset(default_route_interfaces()), missing)


def read(sysfs: Path = Path("/sys"), *, owners: Mapping[str, str] | None = None) -> list[Pf]:
    """Return the node's PFs with SR-IOV, sorted by address. `owners` is by device address. Raises OSError."""
    users = _users(owners or {})
    vdpas = vdpa.of_devices(sysfs)
    with Rtnl() as host:
        return [
            _pf(device, host, users, vdpas)
            for device in pci.network_devices(sysfs)
            if device.total_vfs and device.exists
        ]


def in_use(
    addresses: Iterable[str], sysfs: Path = Path("/sys"), *, owners: Mapping[str, str], arriving: bool
) -> dict[str, str]:
    """Return the users of these VFs by address. With `arriving`, missing interfaces are ignored. Raises OSError."""
    users = _users(owners, missing=not arriving)
    vdpas = vdpa.of_devices(sysfs)
    found = {}
    with Rtnl() as host:
        for device in (PciDevice(address, sysfs) for address in addresses):
            link = host.link(name) if (name := device.own_netdev) else None
            found[device.address] = _user(device, link, vdpas.get(device.address), host, users)
    return {address: user for address, user in found.items() if user}


def reread(pf: Pf, sysfs: Path = Path("/sys")) -> Pf:
    """Read the PF again, without the users of its VFs. Raises OSError."""
    with Rtnl() as host:
        return _pf(PciDevice(pf.address, sysfs), host, Users(), vdpa.of_devices(sysfs))


def find(pfs: Iterable[Pf], name: str) -> Pf | None:
    """Return the PF of that address, name or alternative name."""
    return next((pf for pf in pfs if name in (pf.address, pf.name, *pf.altnames)), None)


def _pf(device: PciDevice, host: Rtnl, users: Users, vdpas: Mapping[str, VdpaDevice]) -> Pf:
    name = device.own_netdev
    link = host.link(name, vfs=True) if name else None
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
            _vf(index, PciDevice(address, device.sysfs), host, users, vdpas.get(address), pf=link)
            for index, address in device.virtual_functions()
        ),
    )


def _vf(index: int, device: PciDevice, host: Rtnl, users: Users, made: VdpaDevice | None, *, pf: Link | None) -> Vf:
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
        up=link.up if link else False,
        driver_override=device.attribute("driver_override").replace("(null)", ""),
        in_user_space=device.is_in_user_space,
        settings=pf.vfs.get(index, VfSettings()) if pf else VfSettings(),
        vdpa=made.address if made else "",
        vdpa_type=(made.kind or "none") if made else "",
        user=_user(device, link, made, host, users),
    )


def _user(device: PciDevice, link: Link | None, made: VdpaDevice | None, host: Rtnl, users: Users) -> str:
    """Return who uses the VF or its vdpa device; "" for nobody."""
    if owner := users.owners.get(device.address):
        return owner
    if device.is_in_user_space:
        return vfio.user_among(users.nodes, device)
    if user := _user_of_vdpa(made, host, users) if made else "":
        return user
    if link is None:
        return "its interface is in another network namespace" if device.driver and users.missing else ""
    return _user_of_interface(link, host, users)


def _user_of_vdpa(made: VdpaDevice, host: Rtnl, users: Users) -> str:
    """Return who uses the vdpa device of a VF; "" for nobody."""
    if made.kind == VHOST:
        return users.nodes.get(made.node, "")
    if made.kind != VIRTIO or made.virtio is None:
        return ""
    link = next(filter(None, map(host.link, made.virtio.netdevs)), None)
    if link is None:
        return "the interface of its vdpa device is in another network namespace" if users.missing else ""
    return _user_of_interface(link, host, users)


def _user_of_interface(link: Link, host: Rtnl, users: Users) -> str:
    if link.master:
        master = host.link(link.master)
        return f"its interface {link.name} is a port of {master.name if master else link.master}"
    if link.name in users.routed:
        return f"its interface {link.name} carries a default route"
    addresses = [each.cidr for each in host.addresses(link.index) if not each.cidr.startswith("fe80:")]
    return f"its interface {link.name} has the address {addresses[0]}" if addresses else ""
