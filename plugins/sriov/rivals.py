"""Finds other functions of the same PF with the MAC address or GUID that an attachment asks for.

A PF delivers a frame to the VF that has its destination address. Drivers accept the same address for two VFs
without an error (ice refused it for some time), and either VF may then receive the frames of the other. The same
address in different VLANs or bridges is no conflict, because NICs filter by VLAN too. Two functions of the same
pod may share an address, e.g. for a bond.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices.settings import NO_MAC
from wirespeed.devices.vf import Vf
from wirespeed.kernel import netns
from wirespeed.plugins.sriov.conf import SriovConf
from wirespeed.state.journal import ClaimStep, DeviceClaim, Journal

log = logging.getLogger(__name__)


Record = dict[str, Any]  # of a claim


def asked(conf: SriovConf) -> str:
    """Return the GUID or MAC that an attachment asks for, "" for none."""
    return conf.settings.port_guid or conf.mac or ""


def dead(journal: Journal, pf: str, address: str) -> list[DeviceClaim]:
    """Return the claims of functions of the PF that requested the address and whose pods are gone."""
    return [
        claim
        for claim in _of_pf(journal, pf, address)
        if _wanted(claim.record) == address and not netns.alive(claim.netns, claim.identity)
    ]


def check(journal: Journal, vf: Vf, claim: DeviceClaim) -> None:
    """Refuse the address of the new claim if another pod has it in the same network.

    Raises CniError(TRY_AGAIN_LATER) that names the pod and its VF, because that pod may end. An owner that is not
    in the journal (a virtual machine, or a free VF with a leftover address) is only logged: no DEL would free it.
    """
    address = _wanted(claim.record)
    if not address:
        return
    key = "infinibandGUID" if claim.record["wanted"]["settings"].get("port_guid") else "mac"
    known = {vf.index}
    for other in _of_pf(journal, vf.pf.address, address):
        if _held(other.record) != address or _network(other.record) != _network(claim.record):
            continue
        if other.container == claim.container:
            known.add(other.record["before"]["index"])
        elif _wanted(other.record) == address or netns.alive(other.netns, other.identity):
            raise CniError(
                Code.TRY_AGAIN_LATER,
                f'{vf.where}: key "{key}": {address} is that of device {other.device}, which is {other.ifname} of '
                f"{_owner(other)}; expected one that no other pod has on this PF and VLAN",
            )
    vlan = _network(claim.record)[1]
    for number, held in vf.held.items():
        if number not in known and held.mac == address and (held.vlan or 0) == vlan:
            log.warning("%s: its PF holds %s for VF %d too, which is no pod's here", vf.where, address, number)


def pod_of(args: Mapping[str, str]) -> str:
    """Return the pod in CNI_ARGS as "namespace/name", "" for none."""
    name = args.get("K8S_POD_NAME", "")
    return f"{args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""


def _of_pf(journal: Journal, pf: str, address: str) -> list[DeviceClaim]:
    """Return the claims of the PF's functions whose record contains the address."""
    return [
        claim
        for claim in journal.claims(mentioning=address)
        if claim.record.get("before", {}).get("pf") == pf and claim.step != ClaimStep.REMOVING
    ]


def _owner(claim: DeviceClaim) -> str:
    pod = claim.record.get("pod")
    return f"pod {pod} (container {claim.container})" if pod else f"container {claim.container}"


def _wanted(record: Record) -> str:
    """Return the address that was requested."""
    return record["wanted"]["settings"].get("port_guid") or record["wanted"].get("mac") or ""


def _held(record: Record) -> str:
    """Return the function's address: the requested one, else the one that it had before."""
    before = record["before"]
    mac = before["settings"].get("mac") or NO_MAC
    link = (before.get("link") or {}).get("mac", "")
    return _wanted(record) or before["settings"].get("port_guid") or (mac if mac != NO_MAC else link)


def _network(record: Record) -> tuple[str, int, int]:
    """Return the function's network: bridge of its representor, VLAN (0: untagged), VLAN protocol (0: none)."""
    if port := record.get("port"):
        return port["bridge"], port.get("vlan") or 0, 0
    wanted, before = record["wanted"]["settings"], record["before"]["settings"]
    chosen = before if wanted.get("vlan") is None else wanted
    vlan = chosen.get("vlan") or 0
    return "", vlan, (chosen.get("vlan_proto") or 0) if vlan else 0
