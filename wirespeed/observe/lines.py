"""The text of `status` and `why`: tables without colours that are read the same on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wirespeed.live import RunningCall
from wirespeed.observe.status import AgentStatus, AttachmentStatus, LastError, PoolStatus, Status
from wirespeed.observe.why import Why
from wirespeed.state.calls import Call
from wirespeed.text import clock, table
from wirespeed.trace import Step, depth

_UNKNOWN = "?"


def status_lines(status: Status) -> Iterator[str]:
    """Yield the lines of a node's status: problems are below the table that they belong to."""
    yield f"node {status.node}: {_agent(status.agent)}"
    for call in status.agent.calls if status.agent else ():
        what = call.step or "waits for other calls"
        yield f"  running: {call.verb} of {_owner(call)} for {duration(call.seconds)}: {what}"
    for fault in status.faults:
        yield f"  problem: {fault}"
    if status.pools:
        yield ""
        yield from _pools(status.pools)
    yield ""
    yield from _attachments(status.attachments)
    if status.errors:
        yield ""
        yield "LAST ERRORS"
        for error in status.errors:
            times = f" ({error.count} times)" if error.count > 1 else ""
            text = _without_pod(error.error, error.pod)
            yield f"  {clock(error.at)}  {error.verb} {_owner(error)}{times}: {text}"


def _agent(agent: AgentStatus | None) -> str:
    if agent is None:
        return "no agent answers; pools and running calls are not known"
    return f"agent {agent.version}, running for {duration(agent.seconds)}"


def _pools(pools: Sequence[PoolStatus]) -> Iterator[str]:
    rows = [("POOL", "DEVICES", "ALLOCATED", "FREE", "UNHEALTHY")]
    for pool in pools:
        allocated, free = (_UNKNOWN if value is None else str(value) for value in (pool.allocated, pool.free))
        rows.append((pool.resource, str(pool.devices), allocated, free, str(len(pool.unhealthy))))
    yield from table(rows, right={1, 2, 3, 4})
    for pool in pools:
        for fault in pool.unhealthy:
            yield f"  unhealthy: {fault.device}: {fault.reason}"


def _attachments(attachments: Sequence[AttachmentStatus]) -> Iterator[str]:
    if not attachments:
        yield "no attachments"
        return
    rows = [("POD", "INTERFACE", "NETWORK", "DEVICE", "STATE", "ADDRESSES")]
    for each in attachments:
        state = "PROBLEM" if each.problem else str(each.step)
        rows.append(
            (_owner(each), each.interface, each.network, each.device or "-", state, " ".join(each.ips) or "-")
        )
    yield from table(rows)
    for each in attachments:
        if each.problem:
            yield f"  problem: {_owner(each)} {each.interface}: {each.problem}"


def _owner(each: AttachmentStatus | RunningCall | LastError) -> str:
    return each.pod or f"container {each.container[:12]}"


def why_lines(why: Why) -> Iterator[str]:
    """Yield the lines of what happened to a pod: the answer first, then what it is based on."""
    on = f" on {why.node}" if why.node else ""
    yield f"pod {why.pod}{on}: {why.answer}"
    if why.failure:
        failure = why.failure
        yield f"  error:  {_without_pod(failure.error, why.pod)}"
        if failure.details:
            yield f"  detail: {failure.details}"
        if failure.count > 1:
            yield f"  since:  {clock(failure.first)}, {failure.count} times, the last at {clock(failure.last)}"
    for advice in why.advice:
        yield f"  do:     {advice}"
    if why.networks:
        yield ""
        rows = [("NETWORK", "INTERFACE", "STATE")]
        rows += [(each.network, each.interface or "-", each.state) for each in why.networks]
        yield from table(rows)
    for each in why.devices:
        yield f"  allocated by the kubelet: {each.resource}: {', '.join(each.devices)}"
    for call in _shown(why.calls):
        yield ""
        yield from call_lines(call)
    for fault in why.faults:
        yield ""
        yield f"not known: {fault}"


def _shown(calls: Sequence[Call]) -> list[Call]:
    """Return the calls to show: the last ADD or other call that attaches, and what failed after it."""
    begin = max((index for index, call in enumerate(calls) if call.verb not in {"DEL", "GC", "CHECK"}), default=0)
    return [call for index, call in enumerate(calls) if index == begin or (index > begin and call.code)]


def call_lines(call: Call) -> Iterator[str]:
    """Yield a call, and a line for each of its steps: its begin and its length in milliseconds, and its name."""
    outcome = f"failed with code {call.code}" if call.code else "succeeded"
    outcome += f" after {duration(call.seconds)}"
    yield f"{clock(call.at)}  {call.verb} {call.ifname}: {outcome}  trace {call.trace}"
    for index, step in enumerate(call.steps):
        mark = "  FAILED" if step.error and not any(_failed_inside(call.steps, index)) else ""
        indent = "  " * depth(call.steps, step)
        yield f"  {step.began * 1000:9.1f} {step.seconds * 1000:9.1f} ms  {indent}{step.title}{mark}"


def _failed_inside(steps: Sequence[Step], index: int) -> Iterator[bool]:
    return (bool(step.error) for step in steps if step.parent == index)


def duration(seconds: float) -> str:
    """Return a duration for people: "12.3 ms", "4.2 s", "3 min 20 s", "5 h 7 min", "3 d 4 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // part} {small}"
    raise AssertionError(seconds)


def _without_pod(error: str, pod: str) -> str:
    """Return an error without the pod that it begins with, where the line names the pod already."""
    return error.removeprefix(f"pod {pod}: ")
