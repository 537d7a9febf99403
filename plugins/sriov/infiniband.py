"""Checks the kind of the requested address: GUIDs for an InfiniBand VF, a MAC for any other VF."""

from __future__ import annotations

from wirespeed.devices import settings
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.vf import VfSettings


def check(vf: Vf, asked: VfSettings) -> None:
    """Refuse a MAC for an InfiniBand VF and GUIDs for any other VF.

    Raises Error: INVALID_CONFIG, or DEVICE for GUIDs if the PF's settings are not accessible.
    """
    if asked.mac is not None and vf.infiniband:
        expected = 'none, or "infinibandGUID" of the runtime'
        raise Error(Kind.INVALID_CONFIG, "its PF is InfiniBand", where=vf.where, key="mac", expected=expected)
    if asked.node_guid is None:
        return
    if vf.pf_fault:
        raise settings.refusal(vf, ["port_guid"], vf.pf_fault)
    if not vf.infiniband:
        what, expected = "its PF is not InfiniBand", 'none, or "mac"'
        raise Error(Kind.INVALID_CONFIG, what, where=vf.where, key="infinibandGUID", expected=expected)
