"""The node's current PFs and VFs, and the user of each VF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wirespeed.devices import netdev, pci, snapshot, vdpa, vf, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import Snapshot, VdpaState
from wirespeed.devices.vdpa import VHOST, VIRTIO, VdpaDevice
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.routes import default_route_interfaces
from wirespeed.provision import eswitch, udev


@dataclass(frozen=True, kw_only=True)
class VfFacts:
    """A VF, and who uses it."""

    device: PciDevice
    state: Snapshot  # without its vdpa device
    driver_override: str = ""  # the driver that an administrator reserved it for; "": none
    vdpa: VdpaState | None = None
    user: str = ""  # "": nobody

    @property
    def where(self) -> str:
        return f"VF {self.state.index} ({self.device.address})"

    @property
    def vdpa_type(self) -> str:
        """The type of its vdpa device: "virtio", "vhost", "none" without a driver; "" without a vdpa device."""
        return (self.vdpa.driver or "none") if self.vdpa else ""


@dataclass(frozen=True, kw_only=True)
class Pf:
    """A PF's current state."""

    address: str
    name: str
    altnames: tuple[str, ...]
    driver: str
    vendor: str
    device: str
    model: str  # its name in the hardware database
    numa_node: int
    total_vfs: int
    mtu: int  # bytes
    up: bool
    link_type: str  # "ether", "infiniband" or ""
    eswitch: str  # as `eswitch.mode` returns it
    vfs: tuple[VfFacts, ...] = ()

    @property
    def where(self) -> str:
        return f"PF {self.name} ({self.address})" if self.name else f"PF {self.address}"

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the alternative names of its interface; none without an interface on the host."""
        return (self.name, *self.altnames) if self.name else ()


@dataclass(frozen=True)
class _Users:
    """What tells who uses devices: an rtnetlink socket, and what is read once for all devices."""

    host: Rtnl
    vdpas: Mapping[str, VdpaDevice]  # by the address of the VF
    owners: Mapping[str, str]  # owner by PCI address, from journal and kubelet
    nodes: Mapping[str, str]  # process that has a device node open, by its path
    default_route_netdevs: set[str]  # interfaces that carry a default route
    # Whether a VF with a kernel driver and no interface counts as used: its interface is in an unknown namespace.
    count_missing_netdevs: bool

    def of(self, device: PciDevice, link: Link | None) -> str:
        """Return who uses the VF, whose interface is `link`, or its vdpa device; "" for nobody."""
        if owner := self.owners.get(device.address):
            return owner
        if device.is_in_user_space:
            return vfio.user_among(self.nodes, device)
        if user := self._of_vdpa(self.vdpas.get(device.address)):
            return user
        if link is not None:
            return self._of_interface(link)
        is_missing = device.driver and self.count_missing_netdevs
        return "its interface is in another network namespace" if is_missing else ""

    def _of_vdpa(self, vdpa_device: VdpaDevice | None) -> str:
        if vdpa_device is None:
            return ""
        if vdpa_device.kind == VHOST:
            return self.nodes.get(vdpa_device.node, "")
        if vdpa_device.kind != VIRTIO or vdpa_device.virtio is None:
            return ""
        link = next(filter(None, map(self.host.link, vdpa_device.virtio.netdevs)), None)
        if link is not None:
            return self._of_interface(link)
        missing = "the interface of its vdpa device is in another network namespace"
        return missing if self.count_missing_netdevs else ""

    def _of_interface(self, link: Link) -> str:
        if link.master:
            master = self.host.link(link.master)
            return f"its interface {link.name} is a port of {master.name if master else link.master}"
        if link.name in self.default_route_netdevs:
            return f"its interface {link.name} carries a default route"
        addresses = [each for each in self.host.addresses(link.index) if not str(each).startswith("fe80:")]
        return f"its interface {link.name} has the address {addresses[0]}" if addresses else ""


@contextmanager
def _users(sysfs: Path, owners: Mapping[str, str], *, count_missing_netdevs: bool = True) -> Iterator[_Users]:
    nodes, routes, vdpas = vfio.users(), default_route_interfaces(), vdpa.by_parent(sysfs)
    with Rtnl() as host:
        yield _Users(host, vdpas, owners, nodes, routes, count_missing_netdevs)


def read(sysfs: Path = Path("/sys"), *, owners: Mapping[str, str] | None = None) -> list[Pf]:
    """Return the node's PFs with SR-IOV, sorted by address. `owners` is by device address. Raises OSError."""
    with _users(sysfs, owners or {}) as users:
        return [_pf(device, users) for device in pci.network_devices(sysfs) if device.total_vfs and device.exists]


def users_of(
    addresses: Iterable[str], sysfs: Path = Path("/sys"), *, owners: Mapping[str, str], netdevs_pending: bool
) -> dict[str, str]:
    """Return the users of these VFs by address. Raises OSError.

    With `netdevs_pending`, a missing interface is ignored: the driver may not have created it yet.
    """
    with _users(sysfs, owners, count_missing_netdevs=not netdevs_pending) as users:
        devices = [PciDevice(address, sysfs) for address in addresses]
        found = {device.address: users.of(device, netdev.on_host(users.host, device)) for device in devices}
    return {address: user for address, user in found.items() if user}


def find(pfs: Iterable[Pf], name: str) -> Pf | None:
    """Return the PF of that address, name or alternative name."""
    return next((pf for pf in pfs if name in (pf.address, *pf.names)), None)


def _pf(device: PciDevice, users: _Users) -> Pf:
    name = device.own_netdev
    link = users.host.link(name, vfs=True) if name else None
    vfs = [PciDevice(address, device.sysfs) for _, address in device.virtual_functions()]
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
        vfs=tuple(_vf(each, vf.read_any_state(users.host, each, device, link), users) for each in vfs),
    )


def _vf(device: PciDevice, now: vf.Vf, users: _Users) -> VfFacts:
    vdpa_device = users.vdpas.get(device.address)
    return VfFacts(
        device=device,
        state=snapshot.take(now),
        driver_override=device.attribute("driver_override").replace("(null)", ""),
        vdpa=VdpaState(name=vdpa_device.address, driver=vdpa_device.kind) if vdpa_device else None,
        user=users.of(device, now.link),
    )
