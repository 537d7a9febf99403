"""A VF's settings on its PF (admin MAC, VLAN, rates ...): sets them, restores them, and compares them for CHECK."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace

from wirespeed.devices import guids
from wirespeed.devices.netdev import attempt
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VF_SETTING_GROUPS, VfSettings

log = logging.getLogger(__name__)

NO_MAC = "00:00:00:00:00:00"

# The configuration's key of each setting, for error messages.
_KEYS = {field.name: field.name for field in fields(VfSettings)}
_KEYS |= {"vlan_qos": "vlanQoS", "vlan_proto": "vlanProto"}
_KEYS |= {"node_guid": "infinibandGUID", "port_guid": "infinibandGUID"}


def apply(host: Rtnl, vf: Vf, wanted: VfSettings) -> VfSettings:
    """Set the wanted settings that differ, in one netlink message, or one by one if the driver refuses that.

    If the netdev must get a new MAC, trust is set on until it has that MAC: with some drivers (igb), an untrusted
    VF cannot even take the MAC that the PF has set for it. Return the settings for `apply_deferred`, to be called
    when the netdev has its MAC. Raises Error(DEVICE) with the refused key; settings before it are then applied.
    """
    asked = wanted.differing(vf.settings)
    if vf.pf_fault:
        if asked.items():
            raise refusal(vf, dict(asked.items()), vf.pf_fault)
        return VfSettings()
    changes = _complete_groups(asked, wanted, vf.settings)
    trusted_meanwhile = vf.link is not None and wanted.mac not in {None, vf.link.mac} and vf.settings.trust is False
    if trusted_meanwhile and not wanted.trust:
        changes = replace(changes, trust=True)
    for part, error in _set(host, vf, changes):
        if keys := [key for key, _ in part.items() if getattr(asked, key) is not None]:
            raise refusal(vf, keys, f"the driver of the PF refuses it: {error.strerror}") from error
    return VfSettings(trust=False) if trusted_meanwhile and not wanted.trust else VfSettings()


def _set(host: Rtnl, vf: Vf, changes: VfSettings) -> Iterator[tuple[VfSettings, NetlinkError]]:
    """Set the changes in one message, or one by one if the driver refuses that; yield those that it refuses."""
    try:
        host.set_vf(vf.pf_index, vf.index, changes)
    except NetlinkError:
        for part in changes.parts():
            try:
                host.set_vf(vf.pf_index, vf.index, part)
            except NetlinkError as error:
                yield part, error


def apply_deferred(host: Rtnl, vf: Vf, deferred: VfSettings) -> None:
    """Set what `apply` returned, after the netdev was moved into the pod. Raises Error(DEVICE)."""
    try:
        host.set_vf(vf.pf_index, vf.index, deferred)
    except NetlinkError as error:
        raise Error(Kind.DEVICE, f"its trust cannot be restored: {error.strerror}", where=vf.where) from error


def refusal(vf: Vf, names: Iterable[str], reason: str) -> Error:
    """Return the error for settings that cannot be set, with the key of the first one; it mentions the others."""
    key, *others = dict.fromkeys(_KEYS[name] for name in names)
    also = ", ".join(f'"{each}"' for each in others)
    subject = f"it and {also}" if also else "it"
    return Error(Kind.DEVICE, f"{subject} cannot be set: {reason}", where=vf.where, key=key)


def _complete_groups(changes: VfSettings, wanted: VfSettings, current: VfSettings) -> VfSettings:
    """Complete each group of VF_SETTING_GROUPS that changes, with its wanted or else its current values."""
    complete = replace(current, **dict(wanted.items()))
    groups = [group for group in VF_SETTING_GROUPS if any(getattr(changes, key) is not None for key in group)]
    return VfSettings(**{key: getattr(complete, key) for group in groups for key in group})


def put_back(host: Rtnl, vf: Vf, before: VfSettings) -> None:
    """Restore the VF's settings on the PF and verify them: in one message, or one by one if that is refused.

    Raises Error: DEVICE that names what was not restored, TRY_AGAIN if the driver does not report them now.
    """
    wanted = guids.settings_to_restore(before, vf.settings)
    if not wanted.items():
        return
    if vf.pf_fault:
        raise Error(Kind.DEVICE, f"its settings cannot be restored: {vf.pf_fault}", where=vf.where)
    changes = _complete_groups(wanted.differing(vf.settings), wanted, vf.settings)
    if not changes.items():
        return
    if changes.mac == NO_MAC and changes.spoofchk is not None:
        # Some NICs reject spoofchk for a VF without a MAC, so set it before the MAC is cleared.
        with attempt(f"{vf.where}: spoofchk"):
            host.set_vf(vf.pf_index, vf.index, VfSettings(spoofchk=changes.spoofchk))
    refused = {key: error.strerror for part, error in _set(host, vf, changes) for key, _ in part.items()}
    link = host.link(vf.pf_index, vfs=True)
    now = VfSettings() if link is None else link.vf(vf.index)
    left = {key: value for key, value in wanted.differing(now).items() if not _is_unreported_guid(key, now)}
    if left.get("mac") == NO_MAC:
        log.warning("%s: the driver of the PF keeps the MAC %s that was set", vf.where, now.mac)
        del left["mac"]
    if left:
        wrong = ", ".join(
            f"{_KEYS[key]} is {getattr(now, key)}, was {value}" + (f" ({refused[key]})" if key in refused else "")
            for key, value in left.items()
        )
        raise Error(Kind.DEVICE, f"not restored: {wrong}", where=vf.where)


def drift(vf: Vf, wanted: VfSettings) -> list[str]:
    """Return the wanted settings that differ, as "vlan is 5, expected 100"."""
    if wanted.items() and vf.pf_fault:
        return [vf.pf_fault]
    return [
        f"{_KEYS[key]} is {getattr(vf.settings, key)}, expected {value}"
        for key, value in wanted.differing(vf.settings).items()
        if not _is_unreported_guid(key, vf.settings)
    ]


def _is_unreported_guid(setting: str, now: VfSettings) -> bool:
    """Whether it is a GUID, and the PF's driver reports none (some can only set them)."""
    return setting.endswith("guid") and getattr(now, setting) is None
