"""Finds other functions of the same PF that have the requested MAC address or GUID.

A PF delivers a frame to the VF that has its destination address. Drivers accept the same address for two VFs
without an error (ice refused it for some time), and either VF may then receive the frames of the other. The same
address in different VLANs or bridges is no conflict, because NICs filter by VLAN too. Two functions of the same
pod may share an address, e.g. for a bond.
"""

from __future__ import annotations

import logging

from wirespeed.devices.settings import NO_MAC
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.plugins.sriov.record import PLUGIN, SriovRecord, record_of
from wirespeed.state.journal import ClaimStep, DeviceClaim, Journal

log = logging.getLogger(__name__)


def claims_of_gone_pods(journal: Journal, pf: str, address: str) -> list[DeviceClaim]:
    """Return the claims of functions of the PF that requested the address and whose pods are gone."""
    return [
        claim
        for claim, record in _claims_on_pf(journal, pf, address)
        if record.wanted.address == address and not netns.alive(claim.netns, claim.identity)
    ]


def check(journal: Journal, vf: Vf, claim: DeviceClaim) -> None:
    """Refuse the address of the new claim if another pod has it in the same network.

    Raises Error(TRY_AGAIN) that names the pod and its VF: the address is free when that pod ends. An address that
    is not in the journal (of a virtual machine, or left on a free VF) is only logged, because no DEL would free it.
    """
    new = record_of(claim)
    address = new.wanted.address
    if not address:
        return
    key = "infinibandGUID" if new.wanted.settings.port_guid else "mac"
    known = {vf.index}
    for other, record in _claims_on_pf(journal, vf.pf.address, address):
        if _address(record) != address or _network(record) != _network(new):
            continue
        if other.container == claim.container:
            known.add(record.before.index)
        elif record.wanted.address == address or netns.alive(other.netns, other.identity):
            what = f"{address} belongs to device {other.device}, which is {other.ifname} of {_owner(other, record)}"
            expected = "an address that no other pod has on this PF and VLAN"
            raise Error(Kind.TRY_AGAIN, what, where=vf.where, key=key, expected=expected)
    vlan = _network(new)[1]
    for number, settings in vf.vf_settings.items():
        if number not in known and settings.mac == address and (settings.vlan or 0) == vlan:
            log.warning("%s: its PF has %s on VF %d too, which no pod of this node owns", vf.where, address, number)


def _claims_on_pf(journal: Journal, pf: str, address: str) -> list[tuple[DeviceClaim, SriovRecord]]:
    """Return the claims of the PF's functions whose record contains the address, with their records."""
    claims = [
        (claim, record_of(claim))
        for claim in journal.claims(mentioning=address)
        if claim.plugin == PLUGIN and claim.step != ClaimStep.REMOVING
    ]
    return [(claim, record) for claim, record in claims if record.before.pf == pf]


def _owner(claim: DeviceClaim, record: SriovRecord) -> str:
    return f"pod {record.pod} (container {claim.container})" if record.pod else f"container {claim.container}"


def _address(record: SriovRecord) -> str:
    """Return the function's address: the requested one, else the one that it had before."""
    before = record.before
    mac = before.settings.mac or NO_MAC
    link = (before.link and before.link.mac) or ""
    return record.wanted.address or before.settings.port_guid or (mac if mac != NO_MAC else link)


def _network(record: SriovRecord) -> tuple[str, int, int]:
    """Return the function's network: bridge of its representor, VLAN (0: untagged), VLAN protocol (0: none)."""
    if port := record.port:
        return port.bridge, port.vlan or 0, 0
    wanted, before = record.wanted.settings, record.before.settings
    chosen = before if wanted.vlan is None else wanted
    vlan = chosen.vlan or 0
    return "", vlan, (chosen.vlan_proto or 0) if vlan else 0
