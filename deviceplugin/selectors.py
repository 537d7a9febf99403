"""Selectors: conditions for the devices of a pool."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from wirespeed.devices import pci
from wirespeed.devices.inventory import NetDevice
from wirespeed.errors import Error, Kind

# VF numbers by the PF's name or PCI address in lower case; a device that is not a VF has the number -1.
Functions = Mapping[str, tuple[range, ...]]

_EVERY = range(-1, 1 << 16)
_NAME = re.compile(r"[^\s/#]{1,127}")
_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class Selectors:
    """Conditions: a device must match one value of each key that is set (except `need_vhost_net`)."""

    vendors: frozenset[str] = frozenset()  # four lower-case hex digits
    devices: frozenset[str] = frozenset()  # four lower-case hex digits
    drivers: frozenset[str] = frozenset()
    pci_addresses: frozenset[str] = frozenset()
    pf_names: Functions = field(default_factory=dict)  # by the PF's interface
    root_devices: Functions = field(default_factory=dict)  # by the PF's PCI address
    link_types: frozenset[str] = frozenset()  # "ether", "infiniband"
    acpi_indexes: frozenset[str] = frozenset()
    ddp_profiles: frozenset[str] = frozenset()
    pkeys: frozenset[str] = frozenset()  # 0x and four lower-case hex digits
    is_rdma: bool = False  # the container also gets the RDMA device nodes
    need_vhost_net: bool = False  # the container also gets /dev/vhost-net and /dev/net/tun
    vdpa_type: str = ""  # "virtio", or "vhost": the container also gets the vdpa device's node

    def mismatch(self, device: NetDevice) -> str:
        """Return the first key that does not match and why, "" if the device matches."""
        values = (
            ("vendors", self.vendors, device.vendor),
            ("devices", self.devices, device.device),
            ("drivers", self.drivers, device.driver),
            ("pciAddresses", self.pci_addresses, device.address),
            ("acpiIndexes", self.acpi_indexes, device.acpi_index),
            ("linkTypes", self.link_types, device.link_type),
            ("ddpProfiles", self.ddp_profiles, device.ddp_profile),
            ("pKeys", self.pkeys, device.pkey),
            ("isRdma", {"an RDMA device"} if self.is_rdma else (), "an RDMA device" if device.has_rdma else ""),
            ("vdpaType", {self.vdpa_type} if self.vdpa_type else (), device.vdpa_driver),
        )
        for key, wanted, value in values:
            if wanted and value not in wanted:
                return f"{key}: {value or 'none'} is not {_format(wanted)}"
        functions = (("pfNames", self.pf_names, device.pf_name), ("rootDevices", self.root_devices, device.pf))
        for key, by_pf, pf in functions:
            if by_pf and not any(device.vf_index in numbers for numbers in by_pf.get(pf.lower(), ())):
                return f"{key}: {_function(pf, device.vf_index)} is not {_format(by_pf)}"
        return ""


def pf_names(entries: Iterable[str]) -> Functions:
    """Parse entries like "ens1f0" and "ens1f0#0,3-5" (VF numbers); an entry without numbers includes the PF itself.

    Entries of the same PF are merged. Raises Error(INVALID_CONFIG).
    """
    return _functions(entries, _NAME, "an interface")


def root_devices(entries: Iterable[str]) -> Functions:
    """Parse entries like "0000:86:00.0" and "0000:86:00.1#0-7", like `pf_names`."""
    return _functions(entries, pci.ADDRESS, "a PCI address like 0000:86:00.0")


def _functions(entries: Iterable[str], name: re.Pattern[str], what: str) -> Functions:
    found: dict[str, tuple[range, ...]] = {}
    for entry in entries:
        pf, hash_sign, numbers = entry.partition("#")
        pf = pf.lower()
        if not name.fullmatch(pf):
            expected = f"{what}, or that with #0,2-5 behind it"
            raise Error(Kind.INVALID_CONFIG, expected=expected, got=entry)
        found[pf] = found.get(pf, ()) + (_ranges(entry, numbers) if hash_sign else (_EVERY,))
    return found


def _ranges(entry: str, numbers: str) -> tuple[range, ...]:
    found = []
    for part in numbers.split(","):
        match = _PART.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise Error(Kind.INVALID_CONFIG, expected="VF numbers like #0,2-5 behind the PF", got=entry)
        found.append(range(first, last + 1))
    return tuple(found)


def _function(pf: str, number: int) -> str:
    return f"{pf or 'none'}#{number}" if number >= 0 else pf or "none"


def _format(wanted: Collection[str]) -> str:
    few = " or ".join(islice(sorted(wanted), 4))
    return f"{few} or {len(wanted) - 4} more" if len(wanted) > 4 else few
