"""A VF's settings on its PF (admin MAC, VLAN, rates ...): sets them, restores them, and compares them for CHECK."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import fields, replace

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import guids
from wirespeed.devices.vf import Vf
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VF_SETTING_GROUPS, VfSettings

log = logging.getLogger(__name__)

NO_MAC = "00:00:00:00:00:00"

# The configuration's key of each setting, for error messages.
_KEYS = {
    "mac": "mac",
    "vlan": "vlan",
    "vlan_qos": "vlanQoS",
    "vlan_proto": "vlanProto",
    "min_tx_rate": "min_tx_rate",
    "max_tx_rate": "max_tx_rate",
    "spoofchk": "spoofchk",
    "trust": "trust",
    "link_state": "link_state",
    "node_guid": "infinibandGUID",
    "port_guid": "infinibandGUID",
}


def apply(host: Rtnl, vf: Vf, wanted: VfSettings) -> VfSettings:
    """Set the wanted settings that differ, in one netlink message, or one by one if the driver refuses that.

    If the netdev must get a new MAC, the VF is trusted meanwhile: with some drivers (igb) an untrusted VF cannot
    even take the MAC that the PF has set for it. Return what to set with `settle` when the netdev has its MAC.
    Raises CniError(DEVICE) that names the refused key; the settings before it are then already applied.
    """
    asked = wanted.differing(vf.settings)
    if vf.pf_fault:
        if asked.items():
            raise CniError(Code.DEVICE, f"{vf.where}: {_keys_of(dict(asked.items()))} cannot be set: {vf.pf_fault}")
        return VfSettings()
    changes = _whole(asked, wanted, vf.settings)
    lent = vf.link is not None and wanted.mac not in {None, vf.link.mac} and vf.settings.trust is False
    if lent and not wanted.trust:
        changes = replace(changes, trust=True)
    try:
        host.set_vf(vf.pf_index, vf.index, changes)
    except NetlinkError:
        for part in changes.parts():
            _set_one(host, vf, part, asked)
    return VfSettings(trust=False) if lent and not wanted.trust else VfSettings()


def _set_one(host: Rtnl, vf: Vf, part: VfSettings, asked: VfSettings) -> None:
    try:
        host.set_vf(vf.pf_index, vf.index, part)
    except NetlinkError as error:
        keys = [key for key, _ in part.items() if getattr(asked, key) is not None]
        if keys:
            raise CniError(
                Code.DEVICE, f"{vf.where}: {_keys_of(keys)}: the driver of the PF refuses it: {error.strerror}"
            ) from error


def settle(host: Rtnl, vf: Vf, rest: VfSettings) -> None:
    """Set what `apply` returned, after the netdev's move into the pod. Raises CniError(DEVICE)."""
    try:
        host.set_vf(vf.pf_index, vf.index, rest)
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"{vf.where}: trust cannot be set back: {error.strerror}") from error


def _keys_of(settings: Iterable[str]) -> str:
    """Format settings by their keys in the configuration: 'key "vlan", "vlanQoS"'."""
    return "key " + ", ".join(f'"{key}"' for key in dict.fromkeys(_KEYS[key] for key in settings))


def _whole(changes: VfSettings, wanted: VfSettings, current: VfSettings) -> VfSettings:
    """Complete each group of VF_SETTING_GROUPS that has a change, with the wanted or else the current values."""
    filled = {}
    for group in VF_SETTING_GROUPS:
        if any(getattr(changes, key) is not None for key in group):
            for key in group:
                value = getattr(wanted, key)
                filled[key] = getattr(current, key) if value is None else value
    return VfSettings(**filled)


def put_back(host: Rtnl, vf: Vf, before: VfSettings) -> None:
    """Restore the VF's settings on the PF, in one message or else one by one, and verify them.

    Raises CniError: DEVICE that names what was not restored, TRY_AGAIN_LATER while the driver does not report them.
    """
    wanted = guids.to_put_back(before, vf.settings)
    if not wanted.items():
        return
    if vf.pf_fault:
        raise CniError(Code.DEVICE, f"{vf.where}: its settings cannot be restored: {vf.pf_fault}")
    changes = _whole(wanted.differing(vf.settings), wanted, vf.settings)
    if not changes.items():
        return
    refused = _set_back(host, vf, changes)
    now = _held(host, vf)
    left = {key: value for key, value in wanted.differing(now).items() if not _is_untold(key, now)}
    if left.get("mac") == NO_MAC:
        log.warning("%s: the driver of the PF keeps the MAC %s that was set", vf.where, now.mac)
        del left["mac"]
    if left:
        told = ", ".join(
            f"{_KEYS[key]} is {getattr(now, key)}, was {value}" + (f" ({refused[key]})" if key in refused else "")
            for key, value in left.items()
        )
        raise CniError(Code.DEVICE, f"{vf.where}: not restored: {told}")


def _set_back(host: Rtnl, vf: Vf, changes: VfSettings) -> dict[str, str]:
    """Set the changes; return the driver's error of each setting that it refuses."""
    refused: dict[str, str] = {}
    try:
        if changes.mac == NO_MAC and changes.spoofchk is not None:
            # Some NICs reject spoofchk for a VF without a MAC, so set it before the MAC is cleared.
            host.set_vf(vf.pf_index, vf.index, VfSettings(spoofchk=changes.spoofchk))
        host.set_vf(vf.pf_index, vf.index, changes)
    except NetlinkError:
        for part in changes.parts():
            try:
                host.set_vf(vf.pf_index, vf.index, part)
            except NetlinkError as error:
                refused |= {key: str(error.strerror) for key, _ in part.items()}
    return refused


def _held(host: Rtnl, vf: Vf) -> VfSettings:
    """Return the VF's current settings on the PF. Raises CniError(TRY_AGAIN_LATER) while they are not reported."""
    link = host.link(vf.pf_index, vfs=True)
    return VfSettings() if link is None else link.vf(vf.index)


def drift(vf: Vf, wanted: VfSettings) -> list[str]:
    """Return the wanted settings that differ, as "vlan is 5, expected 100"."""
    if wanted.items() and vf.pf_fault:
        return [vf.pf_fault]
    return [
        f"{_KEYS[f.name]} is {getattr(vf.settings, f.name)}, expected {getattr(wanted, f.name)}"
        for f in fields(wanted)
        if getattr(wanted, f.name) not in {None, getattr(vf.settings, f.name)}
        and not _is_untold(f.name, vf.settings)
    ]


def _is_untold(setting: str, now: VfSettings) -> bool:
    """Whether it is a GUID, and the PF's driver reports none (some can only set them)."""
    return setting.endswith("guid") and getattr(now, setting) is None
