"""The state of a node on one screen: agent, pools, attachments with what is wrong with them, the last errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

import msgspec

from wirespeed import __version__, structs
from wirespeed.cni.request import pod_of
from wirespeed.errors import Error
from wirespeed.live import Fault, Pool, RunningCall
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import netns_gone, of_earlier_boot, recorded_delegate
from wirespeed.plugins.meta.reporter import PENDING_KEY
from wirespeed.state.calls import Call
from wirespeed.state.journal import Attachment, AttachmentStep

LAST_ERRORS = 10  # the most that are shown


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A pool: its devices by what they are used for. `allocated` to containers by the kubelet, or free."""

    resource: str
    devices: int
    allocated: int | None
    """None if the kubelet does not answer"""
    free: int | None
    unhealthy: tuple[Fault, ...] = ()


class AttachmentStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An interface of a pod, and what is wrong with it ("" if nothing is)."""

    pod: str
    """namespace/name; empty for a container without a pod"""
    container: str
    interface: str
    network: str
    device: str = ""
    resource: str = ""
    ips: tuple[str, ...] = ()
    step: AttachmentStep
    problem: str = ""


class LastError(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An error of calls for one pod, with the time of the last such call (seconds since 1970) and their number."""

    at: float
    verb: str
    pod: str
    container: str
    code: int
    error: str
    count: int
    trace: str


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The running agent; `seconds` is since its start."""

    version: str
    seconds: float
    calls: tuple[RunningCall, ...] = ()


@structs.prepared
class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A node. Without `agent`, no agent answers: pools are then unknown, and the rest is what is on the disk."""

    node: str
    agent: AgentStatus | None = None
    pools: tuple[PoolStatus, ...] = ()
    attachments: tuple[AttachmentStatus, ...] = ()
    errors: tuple[LastError, ...] = ()
    faults: tuple[str, ...] = ()
    """what else is wrong with the node: what could not be read, and why"""

    @property
    def problems(self) -> list[AttachmentStatus]:
        """The attachments with a problem."""
        return [each for each in self.attachments if each.problem]


def status(node: Node) -> Status:
    """Return the state of the node."""
    faults: list[str] = []
    pools = tuple(_pools(node, node.live.pools(), faults))
    calls = tuple(node.live.calls())
    agent = None
    if node.live.began is not None:
        agent = AgentStatus(version=__version__, seconds=time.monotonic() - node.live.began, calls=calls)
    attachments = attachments_of(node, calls, faults)
    try:
        errors = last_errors(node.calls.read())
    except OSError as error:
        faults.append(f"history of calls: {error.strerror}")
        errors = []
    return Status(
        node=node.name,
        agent=agent,
        pools=pools,
        attachments=attachments,
        errors=tuple(errors[:LAST_ERRORS]),
        faults=tuple(faults),
    )


def _pools(node: Node, pools: Sequence[Pool], faults: list[str]) -> Iterator[PoolStatus]:
    allocated = _allocated_devices(node, faults) if pools else set()
    for pool in pools:
        bad = {fault.device for fault in pool.unhealthy}
        taken = None if allocated is None else allocated & set(pool.devices)
        yield PoolStatus(
            resource=pool.resource,
            devices=len(pool.devices),
            allocated=None if taken is None else len(taken),
            free=None if taken is None else len(set(pool.devices) - bad - taken),
            unhealthy=pool.unhealthy,
        )


def _allocated_devices(node: Node, faults: list[str]) -> set[str] | None:
    """Return the devices that the kubelet allocated to pods; None if it does not answer."""
    try:
        return {each.device for each in node.pod_resources.allocations()}
    except Error as error:
        faults.append(error.msg)
        return None


def attachments_of(node: Node, calls: Sequence[RunningCall], faults: list[str]) -> tuple[AttachmentStatus, ...]:
    """Return the attachments of the journal; why it cannot be read is added to `faults`."""
    try:
        journal = node.existing_journal()
        rows = journal.attachments() if journal else []
    except Error as error:
        faults.append(error.msg)
        return ()
    running = {call.container for call in calls}
    return tuple(_attachment(row, problem=_problem(row, in_progress=row.container in running)) for row in rows)


def _attachment(row: Attachment, *, problem: str) -> AttachmentStatus:
    delegate = recorded_delegate(row)
    return AttachmentStatus(
        pod=pod_of(delegate.args),
        container=row.container,
        interface=delegate.cni_ifname,
        network=delegate.label,
        device=delegate.device,
        resource=delegate.resource,
        ips=tuple(ip["address"] for ip in (row.result or {}).get("ips", ())),
        step=row.step,
        problem=problem,
    )


def _problem(row: Attachment, *, in_progress: bool) -> str:
    """Return what is wrong with an attachment for which no call is in progress."""
    problem = ""
    if in_progress:
        pass
    elif of_earlier_boot(row):
        problem = "left from before the reboot: its addresses are released by its DEL, or by GC"
    elif row.step == AttachmentStep.DELETING:
        problem = "its DEL failed: the runtime repeats it, or GC finishes it"
    elif row.step != AttachmentStep.ADDED:
        problem = "its ADD was interrupted: a DEL or GC undoes it"
    elif netns_gone(row):
        problem = "its pod is gone without a DEL: GC or the agent's collector releases it"
    elif row.record.get(PENDING_KEY) is not None:
        problem = "network-status is not written yet: the API server does not accept it"
    return problem


def last_errors(calls: Iterator[Call]) -> list[LastError]:
    """Return the errors of failed calls, the newest first; equal errors for one pod are one."""
    failed = [call for call in calls if call.code]
    same = attrgetter("verb", "pod", "error")
    failed.sort(key=same)
    found = []
    for _, group in groupby(failed, key=same):
        each = list(group)
        last = max(each, key=lambda call: call.at)
        found.append(
            LastError(
                at=last.at,
                verb=last.verb,
                pod=last.pod,
                container=last.container,
                code=last.code,
                error=last.error,
                count=len(each),
                trace=last.trace,
            )
        )
    return sorted(found, key=lambda error: -error.at)
