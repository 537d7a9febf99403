"""Writes network-status: within the ADD, or deferred if the API server does not accept it in time.

A deferred status does not fail the ADD. It is marked as pending in the journal row of the container's master, so it
survives a restart of the agent and is dropped with that row. When it is written, it is built from the journal.
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

from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import NotFoundError, UnavailableError, retry_until
from wirespeed.node import Node
from wirespeed.plugins.meta import status
from wirespeed.plugins.meta.delegate import Delegate, recorded_delegate, recorded_identity
from wirespeed.plugins.meta.resolve import Pod, named_pod
from wirespeed.state.journal import Attachment, AttachmentStep

log = logging.getLogger(__name__)

PENDING_KEY = "statusOwed"  # key of the master's record while its status is pending; the value is the pod's UID

_WORKERS = 4  # deferred statuses written in parallel
_BACKOFF = (1.0, 30.0)  # seconds until the next attempt: first and maximum

Attached = Sequence[tuple[Delegate, Result]]  # networks, and the results of their ADD
SendEvent = Callable[..., None]  # creates an event: (pod, reason, message, warning=)


@dataclass(eq=False, kw_only=True)
class _PendingReport:
    """A deferred network-status. `container` and `ifname` are the master's. Hold `lock` while writing it."""

    container: str
    ifname: str
    pod: Pod
    reason: str = "the agent ended before it was written"
    lock: threading.Lock = field(default_factory=threading.Lock)
    failures: int = 0
    due: float = 0.0  # a time.monotonic() value
    running: bool = False


class Reporter:
    """Writes network-status. Thread-safe. `send_event` creates an event of a pod."""

    def __init__(self, node: Node, send_event: SendEvent) -> None:
        self._node, self._journal, self._send_event = node, node.journal, send_event
        self._devinfo = Path(node.config.devinfo)
        self._changed = threading.Condition()
        self._pending: dict[tuple[str, str], _PendingReport] = {}  # by container and the master's interface
        self._stopping = False

    def report(self, request: Request, pod: Pod, attached: Attached, *, until: float) -> bool:
        """Write the pod's network-status from all its attachments and their results; return False if deferred.

        The API server has to accept it by `until` (time.monotonic()). Raises Error if it rejects it.
        """
        with self._hold_retries(pod):
            try:
                with retry_until(until):
                    self._write(pod, attached)
            except NotFoundError as error:  # the pod was deleted meanwhile
                raise error.of_kind(Kind.TRY_AGAIN) from error
            except UnavailableError as error:
                if self._node.once:  # no agent to write it later
                    raise
                self.defer(request, pod, error.msg)
                return False
            self._drop_pending(pod)
        return True

    def defer(self, request: Request, pod: Pod, reason: str) -> None:
        """Mark the pod's status as pending; `run` retries it."""
        container, ifname = request.container_id, request.ifname  # the interface of the master
        self._journal.amend(container, ifname, {PENDING_KEY: pod.uid})
        report = _PendingReport(container=container, ifname=ifname, pod=pod, reason=reason, due=_retry_time(1))
        with self._changed:
            known = (container, ifname) in self._pending
            self._pending[container, ifname] = report
            self._changed.notify_all()
        if not known:
            log.warning("pod %s: network-status is not written yet and will be retried: %s", pod.label, reason)

    def run(self, stop: threading.Event) -> None:
        """Write deferred statuses, including those of an earlier agent, until `stop` is set."""
        self._load_pending()
        stopper = threading.Thread(target=self._await_stop, args=(stop,), name="network-status end", daemon=True)
        stopper.start()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="network-status") as workers:
            while (report := self._next_due()) is not None:
                workers.submit(self._retry, report)
        stopper.join()

    # Deferred statuses

    def _load_pending(self) -> None:
        """Load the statuses that the previous agent deferred."""
        found = [row for row in self._journal.attachments() if row.record.get(PENDING_KEY) is not None]
        with self._changed:
            for row in found:
                pod = named_pod(recorded_delegate(row).args)
                if pod is not None:
                    pod = replace(pod, uid=row.record[PENDING_KEY])
                    report = _PendingReport(container=row.container, ifname=row.ifname, pod=pod)
                    self._pending.setdefault((row.container, row.ifname), report)

    def _await_stop(self, stop: threading.Event) -> None:
        stop.wait()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _next_due(self) -> _PendingReport | None:
        """Wait for the next status that is due and mark it as running; None when `run` must stop."""
        with self._changed:
            while not self._stopping:
                waiting = [report for report in self._pending.values() if not report.running]
                first = min(waiting, key=lambda report: report.due, default=None)
                now = time.monotonic()
                if first is not None and first.due <= now:
                    first.running = True
                    return first
                self._changed.wait(None if first is None else first.due - now)
            return None

    def _retry(self, report: _PendingReport) -> None:
        done = True
        try:
            done = self._write_pending(report)
        except Error as error:
            log.error("pod %s: network-status: %s", report.pod.label, error.msg)  # noqa: TRY400 — a refusal
        except Exception:
            log.exception("pod %s: network-status", report.pod.label)
        with self._changed:
            report.running = False
            if not done:
                report.failures += 1
                report.due = _retry_time(report.failures + 1)
            elif self._pending.get((report.container, report.ifname)) is report:
                del self._pending[report.container, report.ifname]
            for other in self._pending.values() if done else ():  # the API server answers: retry the others soon
                other.due = min(other.due, _retry_time(1))
            self._changed.notify_all()

    def _write_pending(self, report: _PendingReport) -> bool:
        """Write a pending status; return False to retry it later. Raises Error if the API server rejects it."""
        with report.lock:
            rows = self._journal.attachments(report.container)
            master = next((row for row in rows if row.ifname == report.ifname), None)
            if master is None or master.record.get(PENDING_KEY) is None:  # detached, or written by a call meanwhile
                log.debug("pod %s: network-status is no longer pending", report.pod.label)
                return True
            if not netns.alive(master.netns, recorded_identity(master)):
                self._clear_pending(report)
                return True
            if master.step != AttachmentStep.ADDED:  # its DEL has begun
                return False
            return self._write_from_journal(report, master, rows)

    def _write_from_journal(self, report: _PendingReport, master: Attachment, rows: Sequence[Attachment]) -> bool:
        pod = report.pod
        try:
            pod = replace(pod, found=self._node.cluster.pod(pod.namespace, pod.name, pod.uid))
            self._write(pod, attached_networks(rows, master))
        except UnavailableError as error:
            log.debug("pod %s: network-status is still pending: %s", pod.label, error.msg)
            return False
        except NotFoundError:
            self._clear_pending(report)
            log.info("pod %s is gone: its network-status is not written", pod.label)
        except Error as error:
            self._clear_pending(report)
            self._send_event(pod, "NetworkStatusRefused", error.msg, warning=True)
            raise
        else:
            self._clear_pending(report)
            log.info("pod %s: network-status is written now", pod.label)
            text = f"network-status was written late: {report.reason}"
            self._send_event(pod, "NetworkStatusDelayed", text, warning=True)
        return True

    def _clear_pending(self, report: _PendingReport) -> None:
        self._journal.amend(report.container, report.ifname, {PENDING_KEY: None})

    @contextmanager
    def _hold_retries(self, pod: Pod) -> Iterator[None]:
        """Block retries for the pod inside, so that none overwrites the new status with an older one."""
        with self._changed:
            reports = [report for report in self._pending.values() if report.pod.label == pod.label]
        with ExitStack() as held:
            for report in reports:
                held.enter_context(report.lock)
            yield

    def _drop_pending(self, pod: Pod) -> None:
        """Drop the pod's pending statuses, also of older sandboxes: a newer status has been written."""
        with self._changed:
            done = [report for report in self._pending.values() if report.pod.label == pod.label]
            for report in done:
                del self._pending[report.container, report.ifname]
        for report in done:
            self._clear_pending(report)

    # The status

    def _write(self, pod: Pod, attached: Attached) -> None:
        entries = [
            entry
            for delegate, result in attached
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
        """Return the device-info file that the plugin wrote, or else that of the device plugin."""
        if not delegate.device_info_file:
            return None
        info = deviceinfo.read(Path(delegate.device_info_file))
        if info or not delegate.device:
            return info
        return deviceinfo.read(deviceinfo.dp_file(self._devinfo, delegate.resource, delegate.device))


def attached_networks(rows: Sequence[Attachment], master: Attachment, *, without: str = "") -> Attached:
    """Return the networks attached by the master's ADD call, with their results, except the interface `without`."""
    call = recorded_delegate(master).request_ifname
    found = [(recorded_delegate(row), row) for row in rows if row.ifname != without]
    return [
        (delegate, row.result)
        for delegate, row in found
        if delegate.request_ifname == call and row.step == AttachmentStep.ADDED and row.result is not None
    ]


def _retry_time(failures: int) -> float:
    """Return the time.monotonic() of the next attempt: exponential backoff with jitter."""
    first, most = _BACKOFF
    seconds = min(most, first * 2.0 ** min(failures - 1, 16))
    return time.monotonic() + seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
