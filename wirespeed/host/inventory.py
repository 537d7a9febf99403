"""The node's PCI network devices: what each is, and why those that must not be given away are left out.

One pass over sysfs with few system calls a device: 2,048 VFs take a tenth of a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_LINK_TYPES = {"1": "ether", "32": "infiniband"}  # ARPHRD_ETHER, ARPHRD_INFINIBAND of linux/if_arp.h
_PCI = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_UPLINK = re.compile(r"p\d+")  # phys_port_name of a switchdev uplink; representors have pfNvfM
_NETWORK_CLASS = 0x02


@dataclass(frozen=True, kw_only=True)
class NetDevice:
    """A PCI network device that may be given to a pod.

    `vendor` and `device` are four lower-case hex digits; `driver` is the bound one; `numa_node` is -1 where
    none is known; `iommu_group` is its number or ""; `pf` is the PF's address, `pf_name` its interface and
    `vf_index` the VF's number there, "", "" and -1 for what is no VF; `link_type` is "ether", "infiniband" or "".
    """

    address: str
    vendor: str
    device: str
    driver: str
    numa_node: int = -1
    iommu_group: str = ""
    pf: str = ""
    pf_name: str = ""
    vf_index: int = -1
    link_type: str = ""


@dataclass(frozen=True)
class Inventory:
    """What was found: devices that may be given, and of the others the reason why not, both by address."""

    devices: dict[str, NetDevice] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pf:
    name: str
    link_type: str
    vfs: dict[str, int]  # the VFs' numbers by address


class Reader:
    """Reads the inventory from `sysfs`, a mount of it (sees the interfaces of the namespace it was mounted in).

    It remembers the link type of a device whose interface has moved into a pod.
    """

    def __init__(self, sysfs: str = "/sys") -> None:
        self._net = f"{sysfs}/class/net"
        self._pci = f"{sysfs}/bus/pci/devices"
        self._link_types: dict[str, str] = {}

    def read(self, default_routes: Iterable[str] = ()) -> Inventory:
        """All PCI network controllers, by address; `default_routes` are the interfaces with such a route."""
        routes = self._carriers(default_routes)
        found = Inventory()
        pfs: dict[str, _Pf] = {}
        for address in sorted(_names(self._pci)):
            device = self._read(address, pfs, routes)
            if isinstance(device, str):
                found.left_out[address] = device
            elif device is not None:
                found.devices[address] = device
        self._link_types = {key: device.link_type for key, device in found.devices.items()}
        return found

    def read_one(self, address: str) -> NetDevice | str | None:
        """The device as it is now: None where there is no network device, the reason why it must be left out.

        Default routes are not looked at.
        """
        return self._read(address, None, {})

    def _read(self, address: str, pfs: dict[str, _Pf] | None, routes: dict[str, str]) -> NetDevice | str | None:
        """Read a device; `pfs` remembers the PFs of those read before, None: no other one will be read."""
        path = f"{self._pci}/{address}"
        try:
            if int(_text(f"{path}/class"), 16) >> 16 != _NETWORK_CLASS:
                return None
        except ValueError:  # gone, or no class that could be read
            return None
        pf_address = _link(f"{path}/physfn")
        if address in routes:
            return routes[address]
        if not pf_address and (vfs := self._vfs(address)):
            return f"a PF with {len(vfs)} VFs"
        driver = _link(f"{path}/driver")
        if not driver:
            return "no driver is bound"
        pf = None
        if pf_address and pfs is None:
            pf = self._pf(pf_address, self._vf(pf_address, address) or self._vfs(pf_address))
        elif pf_address and pfs is not None:
            pf = pfs.get(pf_address) or pfs.setdefault(pf_address, self._pf(pf_address, self._vfs(pf_address)))
        return NetDevice(
            address=address,
            vendor=_hex(f"{path}/vendor"),
            device=_hex(f"{path}/device"),
            driver=driver,
            numa_node=_number(f"{path}/numa_node"),
            iommu_group=_link(f"{path}/iommu_group"),
            pf=pf_address,
            pf_name=pf.name if pf else "",
            vf_index=pf.vfs.get(address, -1) if pf else -1,
            # A VF's is always that of its PF, and that can still be seen when the VF is on vfio-pci or in a pod.
            link_type=(pf.link_type if pf else "")
            or self._link_type(self._interfaces(address))
            or self._link_types.get(address, ""),
        )

    def _pf(self, address: str, vfs: dict[str, int]) -> _Pf:
        names = self._interfaces(address)
        name = self._uplink(names)
        return _Pf(name, self._link_type([name] if name else []), vfs)

    def _vfs(self, address: str) -> dict[str, int]:
        """The numbers of a PF's VFs by their addresses.

        From the links, for reading sriov_numvfs waits until VFs that are being made are all made.
        """
        path = f"{self._pci}/{address}"
        links = [name for name in _names(path) if name.startswith("virtfn")]
        return {_link(f"{path}/{name}"): int(name.removeprefix("virtfn")) for name in links}

    def _vf(self, pf: str, address: str) -> dict[str, int]:
        """As `_vfs`, but of one VF alone and without a look at all links; nothing where the PF spaces them oddly.

        A PF's VFs lie on the bus sriov_offset functions behind it, and sriov_stride from each other.
        """
        path = f"{self._pci}/{pf}"
        distance = _routing_id(address) - _routing_id(pf) - max(0, _number(f"{path}/sriov_offset"))
        number = distance // max(1, _number(f"{path}/sriov_stride"))
        return {address: number} if _link(f"{path}/virtfn{number}") == address else {}

    def _interfaces(self, address: str) -> list[str]:
        """Its interfaces; those of a virtio device are one folder deeper."""
        path = f"{self._pci}/{address}"
        return _names(f"{path}/net") or [
            name for entry in _names(path) if entry.startswith("virtio") for name in _names(f"{path}/{entry}/net")
        ]

    def _uplink(self, names: list[str]) -> str:
        """The PF's own interface among those of its device: in switchdev mode its VFs' representors are too."""
        for name in names if len(names) > 1 else ():
            port = _text(f"{self._net}/{name}/phys_port_name")
            if _UPLINK.fullmatch(port) and _text(f"{self._net}/{name}/phys_switch_id"):
                return name
        return names[0] if names else ""

    def _link_type(self, names: list[str]) -> str:
        return _LINK_TYPES.get(_text(f"{self._net}/{names[0]}/type"), "") if names else ""

    def _carriers(self, default_routes: Iterable[str]) -> dict[str, str]:
        """What the PCI devices below the interfaces carry, by address: through bonds, bridges, VLANs as well."""
        found: dict[str, str] = {}
        seen: set[str] = set()
        for top in sorted(default_routes):
            pending = [top]
            while pending:
                name = pending.pop()
                if name in seen:
                    continue
                seen.add(name)
                pending += self._lower(name)
                device = os.path.realpath(f"{self._net}/{name}/device")
                if addresses := _PCI.findall(device):
                    what = "a default route" if name == top else f"the default route of {top}"
                    found[addresses[-1]] = f"its interface {name} carries {what}"
        return found

    def _lower(self, name: str) -> list[str]:
        path = f"{self._net}/{name}"
        entries = _names(path)
        lower = [entry.removeprefix("lower_") for entry in entries if entry.startswith("lower_")]
        if not lower and "device" not in entries and name != "ovs-system":
            # An internal port of Open vSwitch has no link to the ports of its bridge; its datapath has.
            lower = self._lower("ovs-system")
        return lower


def _names(folder: str) -> list[str]:
    """The entries of a folder, sorted; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _text(path: str) -> str:
    """The text of an attribute, stripped; "" where it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, 4096).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(file)


def _link(path: str) -> str:
    """The last part of what a symlink points to, "" without the symlink."""
    try:
        return os.readlink(path).rpartition("/")[2]
    except OSError:
        return ""


def _routing_id(address: str) -> int:
    """Bus, device and function as one number."""
    _, bus, slot = address.split(":")
    device, _, function = slot.partition(".")
    return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def _hex(path: str) -> str:
    return _text(path).lower().removeprefix("0x")


def _number(path: str) -> int:
    try:
        return int(_text(path))
    except ValueError:
        return -1
