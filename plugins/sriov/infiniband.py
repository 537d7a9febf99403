"""Which addresses may be requested for a VF: a MAC, or for an InfiniBand VF GUIDs."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices.vf import Vf
from wirespeed.kernel.netlink.vf import VfSettings


def check(vf: Vf, asked: VfSettings) -> None:
    """Refuse a MAC for an InfiniBand VF and GUIDs for any other VF.

    Raises CniError: INVALID_CONFIG, or DEVICE for GUIDs if the PF's settings are not accessible.
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
