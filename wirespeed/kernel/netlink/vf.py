"""The settings of VFs in link messages: IFLA_VFINFO_LIST of linux/if_link.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wirespeed.kernel.netlink.codec import attribute, attributes, list_attributes, mac_bytes, nested

IFLA_VFINFO_LIST = 22
IFLA_VF_INFO = 1
IFLA_VF_MAC, IFLA_VF_SPOOFCHK, IFLA_VF_LINK_STATE = 1, 4, 5
IFLA_VF_RATE, IFLA_VF_STATS, IFLA_VF_TRUST, IFLA_VF_VLAN_LIST = 6, 8, 9, 12
IFLA_VF_VLAN_INFO = 1
IFLA_VF_IB_NODE_GUID, IFLA_VF_IB_PORT_GUID = 10, 11

ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
VLAN_PROTOCOLS = {"802.1q": ETH_P_8021Q, "802.1ad": ETH_P_8021AD}
LINK_STATES = {"auto": 0, "enable": 1, "disable": 2}

_U32 = struct.Struct("I")
_GUID = struct.Struct("I4xQ")  # struct ifla_vf_guid
_UNSUPPORTED = 0xFFFFFFFF  # what the kernel reports for a VF setting that the driver does not fill in

# Settings that are one number, in the order in which the kernel applies them; and GUIDs.
_NUMBERS = {
    "spoofchk": (IFLA_VF_SPOOFCHK, bool),
    "link_state": (IFLA_VF_LINK_STATE, int),
    "trust": (IFLA_VF_TRUST, bool),
}
_GUIDS = {"node_guid": IFLA_VF_IB_NODE_GUID, "port_guid": IFLA_VF_IB_PORT_GUID}
# The settings that the kernel sets together.
VF_SETTING_GROUPS = (
    ("mac",),
    ("vlan", "vlan_qos", "vlan_proto"),
    ("min_tx_rate", "max_tx_rate"),
    ("spoofchk",),
    ("link_state",),
    ("trust",),
    ("node_guid",),
    ("port_guid",),
)


@dataclass(frozen=True, kw_only=True)
class VfSettings:
    """A PF driver's settings of one VF. None means "not reported" when read, "leave unchanged" when set.

    Rates are in Mbit/s, 0 for no limit; `vlan_proto` and `link_state` are the kernel's numbers; GUIDs are 8 bytes
    in hex, with colons when read.
    """

    mac: str | None = None
    vlan: int | None = None
    vlan_qos: int | None = None
    vlan_proto: int | None = None
    min_tx_rate: int | None = None
    max_tx_rate: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    link_state: int | None = None
    node_guid: str | None = None
    port_guid: str | None = None

    def differing(self, current: VfSettings) -> VfSettings:
        """Return only the settings that differ from the current ones."""
        return VfSettings(**{key: value for key, value in self.items() if value != getattr(current, key)})

    def items(self) -> list[tuple[str, Any]]:
        """Return (name, value) of the settings that are not None."""
        return [(key, value) for key, value in vars(self).items() if value is not None]

    def parts(self) -> Iterator[VfSettings]:
        """Yield the settings that are not None, one of VF_SETTING_GROUPS at a time."""
        given = dict(self.items())
        for group in VF_SETTING_GROUPS:
            if part := {key: given[key] for key in group if key in given}:
                yield VfSettings(**part)


def pack_infos(vf: int, settings: VfSettings) -> list[bytes]:
    """Pack the settings of a VF into IFLA_VF_INFOs: the kernel ignores what follows a GUID in the same one."""
    packed = list(pack_settings(vf, settings))
    first = len(packed) - sum(guid is not None for guid in (settings.node_guid, settings.port_guid))
    return [info for info in (b"".join(packed[:first]), *packed[first:]) if info]


def pack_settings(vf: int, settings: VfSettings) -> Iterator[bytes]:
    """Yield the settings of a VF as attributes, in the order in which the kernel applies any (do_setvfinfo)."""
    if settings.mac is not None:
        yield attribute(IFLA_VF_MAC, _U32.pack(vf) + mac_bytes(settings.mac).ljust(32, b"\0"))
    if settings.vlan is not None or settings.vlan_qos is not None or settings.vlan_proto is not None:
        info = struct.pack("III", vf, settings.vlan or 0, settings.vlan_qos or 0)
        info += struct.pack(">HH", settings.vlan_proto or ETH_P_8021Q, 0)
        yield nested(IFLA_VF_VLAN_LIST, attribute(IFLA_VF_VLAN_INFO, info))
    if settings.min_tx_rate is not None or settings.max_tx_rate is not None:
        rates = struct.pack("III", vf, settings.min_tx_rate or 0, settings.max_tx_rate or 0)
        yield attribute(IFLA_VF_RATE, rates)
    for key, (kind, _) in _NUMBERS.items():
        if (value := getattr(settings, key)) is not None:
            yield attribute(kind, struct.pack("II", vf, value))
    for key, kind in _GUIDS.items():
        if (guid := getattr(settings, key)) is not None:
            yield attribute(kind, _GUID.pack(vf, int(guid.replace(":", ""), 16)))


def pack_vf(number: int, settings: VfSettings) -> bytes:
    """Pack the settings of a VF into an IFLA_VFINFO_LIST; b"" if there are none."""
    infos = b"".join(nested(IFLA_VF_INFO, info) for info in pack_infos(number, settings))
    return nested(IFLA_VFINFO_LIST, infos) if infos else b""


class Vfs(Mapping[int, VfSettings]):
    """The VF settings that a PF's driver reports, decoded on access: mostly one of them is needed."""

    def __init__(self, listed: bytes) -> None:
        self._infos = infos_by_number(listed)

    def __len__(self) -> int:
        return len(self._infos)

    def __iter__(self) -> Iterator[int]:
        return iter(self._infos)

    def __getitem__(self, number: int) -> VfSettings:
        return unpack_settings(self._infos[number])


def infos_by_number(listed: bytes) -> dict[int, bytes]:
    """Return the infos by VF number, from their first attribute, IFLA_VF_MAC, as VFs may be omitted."""
    return {_U32.unpack_from(info, 4)[0]: info for _, info in list_attributes(listed)}


def unpack_settings(info: bytes) -> VfSettings:
    seen = attributes(info)
    found: dict[str, Any] = {}
    if IFLA_VF_MAC in seen:
        found["mac"] = seen[IFLA_VF_MAC][4:10].hex(":")
    if listed := attributes(seen.get(IFLA_VF_VLAN_LIST, b"")).get(IFLA_VF_VLAN_INFO):
        found["vlan"], found["vlan_qos"] = struct.unpack_from("II", listed, 4)
        found["vlan_proto"] = struct.unpack_from(">H", listed, 12)[0] or ETH_P_8021Q
    if IFLA_VF_RATE in seen:
        found["min_tx_rate"], found["max_tx_rate"] = struct.unpack_from("II", seen[IFLA_VF_RATE], 4)
    for key, (kind, convert) in _NUMBERS.items():
        if kind in seen and (value := _U32.unpack_from(seen[kind], 4)[0]) != _UNSUPPORTED:
            found[key] = convert(value)
    for key, kind in _GUIDS.items():
        if kind in seen:
            found[key] = _GUID.unpack_from(seen[kind])[1].to_bytes(8, "big").hex(":")
    return VfSettings(**found)


def unpack_stats(listed: bytes) -> dict[int, dict[int, bytes]]:
    """Return the counters (see `Rtnl.vf_stats`) in an IFLA_VFINFO_LIST."""
    infos = {number: attributes(info) for number, info in infos_by_number(listed).items()}
    return {number: attributes(info.get(IFLA_VF_STATS, b"")) for number, info in infos.items()}
