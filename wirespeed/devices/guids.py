"""GUIDs of InfiniBand VFs (they have no MAC). The PF holds them, and the VF's driver reads them when it binds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wirespeed.devices.vf import Vf
from wirespeed.kernel.netlink.vf import VfSettings

# The GUID that a PF reports for a VF without one: zeros, which cannot be set; and the value that removes a GUID.
_NEVER_SET, _UNSET = ":".join(["00"] * 8), ":".join(["ff"] * 8)


def with_known_guids(vf: Vf) -> Vf:
    """Return the VF with its current GUIDs filled in, even if its PF's driver does not report them.

    The last 8 bytes of its netdev's address are the port GUID, which is then used for both GUIDs. Without a netdev
    the GUIDs are unknown, and restoring the VF can only remove them.
    """
    if vf.settings.port_guid is not None:
        return vf
    guid = vf.link.mac[-len(_UNSET) :] if vf.link is not None else _UNSET
    return replace(vf, settings=replace(vf.settings, node_guid=guid, port_guid=guid))


def settings_to_restore(before: VfSettings, now: VfSettings) -> VfSettings:
    """Return the settings that restore the VF; if it had no GUID, the GUID is set to the value that removes it."""
    keys = ("node_guid", "port_guid")
    removed: dict[str, Any] = {
        key: _UNSET for key in keys if getattr(before, key) == _NEVER_SET != getattr(now, key)
    }
    return replace(before, **removed)
