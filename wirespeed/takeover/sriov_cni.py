"""Takeover from sriov-cni: converts the files that it keeps of its VFs into device claims of the journal.

`/var/lib/cni/sriov/<container>-<interface>` contains its configuration and the VF's original state (sriov-cni,
pkg/types, NetConf); `/var/lib/cni/sriov/pci/<address>` contains the path of the network namespace that has the VF.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import Request, check_container_id, check_network_name, ifname_fault
from wirespeed.devices import pci
from wirespeed.devices.vf import Vf
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
_WRITTEN = (
    *("name", "type", "cniVersion", "deviceID", "vlan", "vlanQoS", "vlanProto", "min_tx_rate", "max_tx_rate"),
    *("spoofchk", "trust", "link_state"),
)


class _State(msgspec.Struct, kw_only=True, rename="pascal"):
    """A VF's state as sriov-cni stores it; its keys are these names in PascalCase, unless given."""

    host_name: str = msgspec.field(name="HostIFName", default="")  # "" if the VF had no netdev
    admin_mac: str = msgspec.field(name="AdminMAC", default="")
    effective_mac: str = msgspec.field(name="EffectiveMAC", default="")
    spoof_chk: bool = False
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
class Kept:
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
    except CniError:
        return None
    return (container, ifname) if container and not ifname_fault(ifname) else None


def read_kept(data: bytes) -> Kept:
    """Decode a file of sriov-cni. Raises CniError(DECODING_FAILURE), INVALID_CONFIG for its network name."""
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
        file = msgspec.convert(raw, _File)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, f"expected what sriov-cni keeps of a VF: {error}") from error
    if not pci.ADDRESS.fullmatch(file.device.lower()):
        raise CniError(
            Code.DECODING_FAILURE, f'key "deviceID": expected a PCI address like 0000:03:02.0, got {file.device!r}'
        )
    return Kept(device=file.device.lower(), network=check_network_name(file.network), state=file.state, raw=raw)


def claim(
    container: str, ifname: str, kept: Kept, *, now: Vf, netns: str, identity: Identity, devinfo: Path
) -> DeviceClaim:
    """Return the claim of a VF whose state is `now`, in the network namespace `netns`; DEL will restore `kept`.

    What sriov-cni does not store (altnames, txqlen) is taken from `now`. Raises CniError(DEVICE) if MAC or MTU are
    neither in the file nor readable from the netdev.
    """
    return takeover.claim(
        container,
        ifname,
        network=kept.network,
        before=replace(now, settings=_settings(kept.state, now), link=_link(kept.state, now)),
        wanted=_wanted(kept, devinfo),
        netns=netns,
        identity=identity,
    )


def _settings(state: _State, now: Vf) -> VfSettings:
    """Return the VF's original settings on the PF; None for those that the driver does not report."""
    noted = VfSettings(
        mac=state.admin_mac.lower() or now.settings.mac,
        vlan=state.vlan,
        vlan_qos=state.vlan_qos,
        vlan_proto=state.vlan_proto or now.settings.vlan_proto,
        min_tx_rate=state.min_tx_rate,
        max_tx_rate=state.max_tx_rate,
        spoofchk=state.spoof_chk,
        trust=state.trust,
        link_state=state.link_state,
    )
    unknown = {f.name: None for f in fields(VfSettings) if getattr(now.settings, f.name) is None}
    return replace(noted, **unknown)


def _link(state: _State, now: Vf) -> Link | None:
    """Return the original netdev, but down: sriov-cni returns a VF's netdev down."""
    if not state.host_name:
        return None
    link = now.link or Link(index=0, name=state.host_name, mac="", mtu=0, flags=0)
    if not (state.effective_mac or link.mac) or not (state.mtu or link.mtu):
        raise CniError(
            Code.DEVICE,
            f"device {now.device.address}: neither its MAC and MTU are noted nor is its interface there",
        )
    return replace(
        link,
        name=state.host_name,
        mac=state.effective_mac.lower() or link.mac,
        mtu=state.mtu or link.mtu,
        flags=link.flags & ~(IFF_UP | IFF_PROMISC | IFF_ALLMULTI),
    )


def _wanted(kept: Kept, devinfo: Path) -> SriovConf | None:
    """Return the configuration that CHECK compares the VF with; None if it has values that are invalid here."""
    config = {key: kept.raw[key] for key in _WRITTEN if key in kept.raw}
    config["mac"] = (kept.raw.get("runtimeConfig") or {}).get("mac") or kept.raw.get("MAC")
    try:
        return configuration.parse(Request(command="CHECK", config=config), devinfo)
    except CniError as error:
        log.warning("device %s: %s; CHECK compares nothing of it", kept.device, error.msg)
        return None
