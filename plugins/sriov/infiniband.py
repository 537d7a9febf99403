"""InfiniBand VFs have no MAC but GUIDs, which their PF holds and their driver reads when it takes them."""

from __future__ import annotations

from dataclasses import replace

from wirespeed.cni.errors import CniError, Code
from wirespeed.host.rtnl import VfSettings
from wirespeed.plugins.sriov.function import Vf

# What a PF tells of a VF that was never given a GUID, and what has it be so again: the first one cannot be set.
_NEVER_SET, _UNSET = ":".join(["00"] * 8), ":".join(["ff"] * 8)


def check(vf: Vf, asked: VfSettings) -> None:
    """Refuse the one kind of address that this kind of VF has not.

    Raises CniError: INVALID_CONFIG, or DEVICE for GUIDs where the PF cannot be seen.
    """
    if asked.mac is not None and vf.infiniband:
        raise CniError(
            Code.INVALID_CONFIG,
            f'{vf.where}: key "mac": its PF is InfiniBand; expected none, or "infinibandGUID" of the runtime',
        )
    if asked.node_guid is None:
        return
    if vf.pf_fault:
        raise CniError(Code.DEVICE, f'{vf.where}: key "infinibandGUID" cannot be set: {vf.pf_fault}')
    if not vf.infiniband:
        raise CniError(
            Code.INVALID_CONFIG,
            f'{vf.where}: key "infinibandGUID": its PF is not InfiniBand; expected none, or "mac"',
        )


def known(vf: Vf) -> Vf:
    """The VF with the GUIDs that it has, also where its PF's driver tells none.

    Its interface's address ends in the port's GUID, which is then taken for both; without an interface, to have
    none is all that can be put back.
    """
    if vf.settings.port_guid is not None:
        return vf
    guid = vf.link.mac[-len(_UNSET) :] if vf.link is not None else _UNSET
    return replace(vf, settings=replace(vf.settings, node_guid=guid, port_guid=guid))


def to_put_back(before: VfSettings, now: VfSettings) -> VfSettings:
    """The settings that make a VF what it was: of GUIDs that it had not, those that take away what it has."""

    def one(had: str | None, has: str | None) -> str | None:
        return _UNSET if had == _NEVER_SET != has else had

    return replace(
        before, node_guid=one(before.node_guid, now.node_guid), port_guid=one(before.port_guid, now.port_guid)
    )
