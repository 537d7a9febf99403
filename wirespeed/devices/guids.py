"""InfiniBand VFs have GUIDs instead of a MAC. The PF holds them, and the VF's driver reads them when it binds."""

from __future__ import annotations

from dataclasses import replace

from wirespeed.devices.vf import Vf
from wirespeed.kernel.netlink.vf import VfSettings

# The GUID that a PF reports for a VF without one: zeros, which cannot be set; and the value that removes a GUID.
_NEVER_SET, _UNSET = ":".join(["00"] * 8), ":".join(["ff"] * 8)


def known(vf: Vf) -> Vf:
    """Return the VF with its current GUIDs filled in, even if its PF's driver does not report them.

    The last 8 bytes of its netdev's address are the port GUID, which is then used for both GUIDs. Without a netdev
    the GUIDs are unknown; they can only be removed when the VF is restored.
    """
    if vf.settings.port_guid is not None:
        return vf
    guid = vf.link.mac[-len(_UNSET) :] if vf.link is not None else _UNSET
    return replace(vf, settings=replace(vf.settings, node_guid=guid, port_guid=guid))


def to_put_back(before: VfSettings, now: VfSettings) -> VfSettings:
    """Return the settings that restore the VF; a GUID that it did not have is replaced by the removing value."""

    def one(had: str | None, has: str | None) -> str | None:
        return _UNSET if had == _NEVER_SET != has else had

    return replace(
        before, node_guid=one(before.node_guid, now.node_guid), port_guid=one(before.port_guid, now.port_guid)
    )
