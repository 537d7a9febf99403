"""Takeover from sriov-cni: converts the files that it keeps of its VFs into device claims of the journal.

`/var/lib/cni/sriov/<container>-<interface>` contains its configuration and the VF's original state (sriov-cni,
pkg/types, NetConf); `/var/lib/cni/sriov/pci/<address>` contains the path of the network namespace that has the VF.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.request import Request, check_container_id, check_network_name, ifname_fault
from wirespeed.devices import pci
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel.netlink.link import IFF_ALLMULTI, IFF_PROMISC, IFF_UP, Link
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.sriov import conf as configuration
from wirespeed.plugins.sriov import takeover
from wirespeed.plugins.sriov.conf import SriovConf
from wirespeed.state.journal import DeviceClaim

log = logging.getLogger(__name__)

_FILE_NAME = re.compile(r"([0-9a-f]{64})-(.+)")  # a runtime's container id; the interface name may contain "-"
# Keys of the stored configuration that the user wrote; sriov-cni added all others, including "MTU".
_USER_KEYS = (
    *("name", "type", "cniVersion", "deviceID", "vlan", "vlanQoS", "vlanProto", "min_tx_rate", "max_tx_rate"),
    *("spoofchk", "trust", "link_state"),
)


class _State(msgspec.Struct, kw_only=True, rename="pascal"):
    """A VF's state as sriov-cni stores it; its keys are these names in PascalCase, unless given."""

    host_name: str = msgspec.field(name="HostIFName", default="")  # "" if the VF had no netdev
    admin_mac: str = msgspec.field(name="AdminMAC", default="")
    effective_mac: str = msgspec.field(name="EffectiveMAC", default="")
    spoofchk: bool = msgspec.field(name="SpoofChk", default=False)
    trust: bool = False
    vlan: int = 0
    vlan_qos: int = msgspec.field(name="VlanQoS", default=0)
    vlan_proto: int = 0
    min_tx_rate: int = 0
    max_tx_rate: int = 0
    link_state: int = 0
    mtu: int = msgspec.field(name="MTU", default=0)


@structs.prepared
class _File(msgspec.Struct, kw_only=True):
    """The required keys of a file."""

    device: str = msgspec.field(name="deviceID")
    network: str = msgspec.field(name="name")
    state: _State = msgspec.field(name="OrigVfState")


@dataclass(frozen=True, kw_only=True)
class SavedVf:
    """sriov-cni's file of one attachment: the VF, its original state, and `raw`, the whole configuration."""

    device: str
    network: str
    state: _State
    raw: dict[str, Any]


def owner(file_name: str) -> tuple[str, str] | None:
    """Return container id and interface of a file name; None if it is not a file of sriov-cni."""
    match = _FILE_NAME.fullmatch(file_name)
    container, ifname = match.groups() if match else file_name.rpartition("-")[::2]
    try:
        check_container_id(container)
    except Error:
        return None
    return (container, ifname) if container and not ifname_fault(ifname) else None


def read_saved(data: bytes) -> SavedVf:
    """Decode a file of sriov-cni. Raises Error(INVALID_DATA), INVALID_CONFIG for its network name."""
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
        file = msgspec.convert(raw, _File)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not a file that sriov-cni writes about a VF: {error}") from error
    if not pci.ADDRESS.fullmatch(file.device.lower()):
        expected = "a PCI address like 0000:03:02.0"
        raise Error(Kind.INVALID_DATA, key="deviceID", expected=expected, got=file.device)
    return SavedVf(device=file.device.lower(), network=check_network_name(file.network), state=file.state, raw=raw)


def claim(
    container: str, ifname: str, saved: SavedVf, *, current: Vf, netns: str, identity: Identity, devinfo: Path
) -> DeviceClaim:
    """Return the claim of a VF in the network namespace `netns`, whose state is `current`; DEL restores `saved`.

    What sriov-cni does not store (altnames, txqlen) is taken from `current`. Raises Error(DEVICE) if MAC or MTU are
    neither in the file nor readable from the netdev.
    """
    return takeover.claim(
        container,
        ifname,
        network=saved.network,
        before=replace(current, settings=_settings(saved.state, current), link=_link(saved.state, current)),
        wanted=_expected_conf(saved, devinfo),
        netns=netns,
        identity=identity,
    )


def _settings(state: _State, current: Vf) -> VfSettings:
    """Return the VF's original settings on the PF; None for those that the driver does not report."""
    same = ("vlan", "vlan_qos", "min_tx_rate", "max_tx_rate", "spoofchk", "trust", "link_state")
    saved = {name: getattr(state, name) for name in same}
    saved["mac"] = state.admin_mac.lower() or current.settings.mac
    saved["vlan_proto"] = state.vlan_proto or current.settings.vlan_proto
    return VfSettings(**{key: value for key, value in saved.items() if getattr(current.settings, key) is not None})


def _link(state: _State, current: Vf) -> Link | None:
    """Return the original netdev, but down: sriov-cni returns a VF's netdev down."""
    if not state.host_name:
        return None
    link = current.link or Link(index=0, name=state.host_name, mac="", mtu=0, flags=0)
    if not (state.effective_mac or link.mac) or not (state.mtu or link.mtu):
        text = "sriov-cni has not recorded its MAC and MTU, and it has no interface to read them from"
        raise Error(Kind.DEVICE, text, where=Thing("device", current.device.address))
    return replace(
        link,
        name=state.host_name,
        mac=state.effective_mac.lower() or link.mac,
        mtu=state.mtu or link.mtu,
        flags=link.flags & ~(IFF_UP | IFF_PROMISC | IFF_ALLMULTI),
    )


def _expected_conf(saved: SavedVf, devinfo: Path) -> SriovConf | None:
    """Return the configuration that CHECK compares the VF with; None if it has values that are invalid here."""
    config = {key: saved.raw[key] for key in _USER_KEYS if key in saved.raw}
    config["mac"] = (saved.raw.get("runtimeConfig") or {}).get("mac") or saved.raw.get("MAC")
    try:
        return configuration.parse(Request(command="CHECK", config=config), devinfo)
    except Error as error:
        log.warning("device %s: %s; CHECK does not compare it with its configuration", saved.device, error.msg)
        return None
