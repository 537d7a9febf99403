"""Writes network-status: within the ADD, or deferred if the API server does not accept it in time.

A deferred ("owed") status does not fail the ADD. It is noted in the journal row of the container's master, so it
disappears with that row and survives a restart of the agent. A deferred write uses the journal's state of that
time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.kernel import netns
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import NotFoundError, UnavailableError, asked_until
from wirespeed.node import Node
from wirespeed.plugins.meta import status
from wirespeed.plugins.meta.delegate import Delegate, recorded, recorded_identity
from wirespeed.plugins.meta.resolve import Pod, named_pod
from wirespeed.state.journal import Attachment, AttachmentStep

log = logging.getLogger(__name__)

OWED = "statusOwed"  # key of the master's record; its value is the pod's UID that the runtime uses

_AT_ONCE = 4  # deferred statuses written in parallel
_PAUSES = (1.0, 30.0)  # seconds until the next attempt: first and maximum

Told = Callable[..., None]  # creates an event: (pod, reason, message, warning=)


@dataclass(eq=False, kw_only=True)
class _Debt:
    """A deferred status of a pod; container and ifname are those of its master. Hold `alone` while writing it."""

    container: str
    ifname: str
    pod: Pod
    why: str = "the agent ended before"
    alone: threading.Lock = field(default_factory=threading.Lock)
    failures: int = 0
    due: float = 0.0  # a time.monotonic() value
    running: bool = False


class Reporter:
    """Writes network-status. Thread-safe. `tell` creates an event of a pod."""

    def __init__(self, node: Node, tell: Told) -> None:
        self._node, self._journal, self._tell = node, node.journal, tell
        self._devinfo = Path(node.config.devinfo)
        self._changed = threading.Condition()
        self._debts: dict[tuple[str, str], _Debt] = {}  # by container and the master's interface
        self._stopping = False

    def report(self, request: Request, pod: Pod, made: Sequence[tuple[Delegate, Result]], *, until: float) -> bool:
        """Write the pod's network-status from all its attachments and their results; return whether it is written.

        If the API server has not accepted it at time.monotonic() `until`, it is deferred. Raises CniError if the
        API server refuses it.
        """
        with self._only_writer(pod):
            try:
                with asked_until(until):
                    self._write(pod, made)
            except NotFoundError as error:  # the pod was deleted meanwhile
                raise CniError(Code.TRY_AGAIN_LATER, error.msg) from error
            except UnavailableError as error:
                if self._node.once:  # no agent to write it later
                    raise
                self.owe(request, pod, error.msg)
                return False
            self._settle(pod)
        return True

    def owe(self, request: Request, pod: Pod, why: str) -> None:
        """Defer the status that this call could not write; `run` writes it."""
        container, ifname = request.container_id, request.ifname  # the interface of the master
        self._journal.amend(container, ifname, {OWED: pod.uid})
        debt = _Debt(container=container, ifname=ifname, pod=pod, why=why, due=_after(1))
        with self._changed:
            known = (container, ifname) in self._debts
            self._debts[container, ifname] = debt
            self._changed.notify_all()
        if not known:
            log.warning("pod %s: network-status is not written yet, it will be: %s", pod.label, why)

    def run(self, stop: threading.Event) -> None:
        """Write deferred statuses, including those of an earlier agent, until `stop` is set."""
        self._recall()
        ender = threading.Thread(target=self._end_with, args=(stop,), name="network-status end", daemon=True)
        ender.start()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="network-status") as workers:
            while (debt := self._next()) is not None:
                workers.submit(self._serve, debt)
        ender.join()

    # Deferred statuses

    def _recall(self) -> None:
        """Load the statuses that the previous agent deferred."""
        found = [row for row in self._journal.attachments() if row.record.get(OWED) is not None]
        with self._changed:
            for row in found:
                pod = named_pod(recorded(row).args)
                if pod is not None and (row.container, row.ifname) not in self._debts:
                    known = replace(pod, uid=row.record[OWED])
                    debt = _Debt(container=row.container, ifname=row.ifname, pod=known)
                    self._debts[row.container, row.ifname] = debt

    def _end_with(self, stop: threading.Event) -> None:
        stop.wait()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _next(self) -> _Debt | None:
        """Wait for the next status that is due and mark it as running; None when `run` must stop."""
        with self._changed:
            while not self._stopping:
                waiting = [debt for debt in self._debts.values() if not debt.running]
                first = min(waiting, key=lambda debt: debt.due, default=None)
                now = time.monotonic()
                if first is not None and first.due <= now:
                    first.running = True
                    return first
                self._changed.wait(None if first is None else first.due - now)
            return None

    def _serve(self, debt: _Debt) -> None:
        settled = True
        try:
            settled = self._pay(debt)
        except CniError as error:
            log.error("pod %s: network-status: %s", debt.pod.label, error.msg)  # noqa: TRY400 — a refusal
        except Exception:
            log.exception("pod %s: network-status", debt.pod.label)
        with self._changed:
            debt.running = False
            if not settled:
                debt.failures += 1
                debt.due = _after(debt.failures + 1)
            elif self._debts.get((debt.container, debt.ifname)) is debt:
                del self._debts[debt.container, debt.ifname]
            for other in self._debts.values() if settled else ():  # the API server answers: retry the others soon
                other.due = min(other.due, _after(1))
            self._changed.notify_all()

    def _pay(self, debt: _Debt) -> bool:
        """Write the status from the journal; return whether it is settled. Raises CniError if it is refused."""
        with debt.alone:
            rows = self._journal.attachments(debt.container)
            master = next((row for row in rows if row.ifname == debt.ifname), None)
            if master is None or master.record.get(OWED) is None:  # detached, or written by a call meanwhile
                log.debug("pod %s: network-status is owed no more", debt.pod.label)
                return True
            if not netns.alive(master.netns, recorded_identity(master)):
                self._forgive(debt)
                return True
            if master.step != AttachmentStep.ADDED:  # its DEL has begun
                return False
            return self._pay_as(debt, master, rows)

    def _pay_as(self, debt: _Debt, master: Attachment, rows: Sequence[Attachment]) -> bool:
        pod = debt.pod
        try:
            found = self._node.cluster.pod(pod.namespace, pod.name, pod.uid)
            pod = replace(pod, found=found)
            self._write(pod, attached(rows, master))
        except UnavailableError as error:
            log.debug("pod %s: network-status is still owed: %s", pod.label, error.msg)
            return False
        except NotFoundError:
            self._forgive(debt)
            log.info("pod %s is gone: its network-status is not written", pod.label)
        except CniError as error:
            self._forgive(debt)
            self._tell(pod, "NetworkStatusRefused", error.msg, warning=True)
            raise
        else:
            self._forgive(debt)
            log.info("pod %s: network-status is written now", pod.label)
            text = f"network-status was written late; before that: {debt.why}"
            self._tell(pod, "NetworkStatusDelayed", text, warning=True)
        return True

    def _forgive(self, debt: _Debt) -> None:
        self._journal.amend(debt.container, debt.ifname, {OWED: None})

    @contextmanager
    def _only_writer(self, pod: Pod) -> Iterator[None]:
        """Block deferred writes of the pod, so that none overwrites the new status with an older one."""
        with self._changed:
            debts = [debt for debt in self._debts.values() if debt.pod.label == pod.label]
        with ExitStack() as held:
            for debt in debts:
                held.enter_context(debt.alone)
            yield

    def _settle(self, pod: Pod) -> None:
        """Drop the pod's deferred statuses, including those of an older sandbox: a call has written the status."""
        with self._changed:
            settled = [debt for debt in self._debts.values() if debt.pod.label == pod.label]
            for debt in settled:
                del self._debts[debt.container, debt.ifname]
        for debt in settled:
            self._forgive(debt)

    # The status

    def _write(self, pod: Pod, made: Sequence[tuple[Delegate, Result]]) -> None:
        entries = [
            entry
            for delegate, result in made
            if not delegate.auxiliary
            for entry in status.entries(
                label=delegate.label,
                ifname=delegate.ifname,
                master=delegate.master,
                result=result,
                device_info=self._device_info(delegate),
            )
        ]
        self._node.cluster.set_network_status(pod.namespace, pod.name, pod.uid, entries)

    def _device_info(self, delegate: Delegate) -> dict[str, object] | None:
        """Return the device-info that the plugin wrote, else that of the device plugin."""
        if not delegate.device_info_file:
            return None
        made = deviceinfo.read(Path(delegate.device_info_file))
        if made or not delegate.device:
            return made
        return deviceinfo.read(deviceinfo.dp_file(self._devinfo, delegate.resource, delegate.device))


def attached(rows: Sequence[Attachment], master: Attachment, *, without: str = "") -> list[tuple[Delegate, Result]]:
    """Return the attachments of the master's ADD call with their results, except the interface `without`."""
    call = recorded(master).request_ifname
    found = [(recorded(row), row) for row in rows if row.ifname != without]
    return [
        (delegate, row.result)
        for delegate, row in found
        if delegate.request_ifname == call and row.step == AttachmentStep.ADDED and row.result is not None
    ]


def _after(failures: int) -> float:
    """Return the time.monotonic() of the next attempt: exponential backoff with jitter."""
    first, most = _PAUSES
    seconds = min(most, first * 2.0 ** min(failures - 1, 16))
    return time.monotonic() + seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
