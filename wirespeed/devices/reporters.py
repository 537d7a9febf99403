"""Tracking of devlink health reporters: faults that the drivers of NICs report."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable

from wirespeed.kernel.netlink.codec import messages
from wirespeed.kernel.netlink.devlink import Reporter, dump_reporters, update_reporters
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.generic import GenericSocket
from wirespeed.kernel.netlink.socket import NETLINK_GENERIC, NetlinkSocket

log = logging.getLogger(__name__)

_DUMP_TIMEOUT = 1.0  # seconds to wait for the first dump
_RETRY_DELAY = 10.0  # seconds after a failed dump until the next one


class HealthReporters:
    """Tracks which health reporters are in error. One thread calls `drain`, any thread may read `in_error`.

    The kernel notifies of every change, but dumps the current state only while no driver has its device locked:
    while a NIC is reset to recover it, a dump takes minutes. So a separate thread waits for it.
    """

    def __init__(
        self,
        subscribed: NetlinkSocket,
        family: int,
        dump: Callable[[], Iterable[bytes]],
        on_late_change: Callable[[], None],
    ) -> None:
        """`on_late_change` is called in another thread if the messages that `dump` returns change `in_error`."""
        self._socket, self._family, self._dump, self._on_late_change = subscribed, family, dump, on_late_change
        self._lock = threading.Lock()
        self._in_error: set[Reporter] = set()
        # Notifications since a dump was requested; None: no dump is pending.
        self._since_request: list[bytes] | None = None
        self._closed = False
        self._problem = ""  # of the last dump
        self._retry: threading.Timer | None = None
        if dump_thread := self._start_dump():
            dump_thread.join(_DUMP_TIMEOUT)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._cancel_retry()
        self._socket.close()

    @property
    def in_error(self) -> frozenset[Reporter]:
        """The reporters in error, without those that cannot recover: these only count events."""
        with self._lock:
            return frozenset(self._in_error)

    def drain(self) -> bool:
        """Process all notifications; return whether the set of reporters in error changed. Raises OSError."""
        before, lost = self.in_error, False
        for datagram in self._socket.notifications():
            if datagram is None:
                lost = True
            elif not lost:  # after an overflow these are older than what was lost, and a new dump follows
                self._process([each.payload for each in messages(datagram) if each.kind == self._family])
        if lost:
            self._start_dump()
        return self.in_error != before

    def _process(self, notifications: list[bytes]) -> None:
        with self._lock:
            if self._since_request is not None:
                self._since_request += notifications
            for message in notifications:
                update_reporters(self._in_error, message)

    def _start_dump(self) -> threading.Thread | None:
        """Request a dump, which replaces one that is pending or to be retried; None if closed."""
        since_request: list[bytes] = []
        thread = threading.Thread(target=self._finish_dump, args=(since_request,), name="devlink", daemon=True)
        with self._lock:
            if self._closed:
                return None
            self._cancel_retry()
            self._since_request = since_request
        thread.start()
        return thread

    def _cancel_retry(self) -> None:
        if self._retry:
            self._retry.cancel()
            self._retry = None

    def _finish_dump(self, since_request: list[bytes]) -> None:
        dumped: list[bytes] = []
        problem = ""
        try:
            dumped.extend(self._dump())
        except OSError as error:
            problem = error.strerror or str(error)
        with self._lock:
            if self._closed or self._since_request is not since_request:
                return  # a newer dump was requested after an overflow
            if problem and problem != self._problem:
                log.warning("devlink does not report the state of all health reporters: %s", problem)
            self._problem = problem
            before = frozenset(self._in_error)
            if problem:  # a reporter that is missing in the dump may still be in error
                self._retry = threading.Timer(_RETRY_DELAY, self._start_dump)
                self._retry.daemon = True
                self._retry.start()
            else:
                self._in_error.clear()
            for message in [*dumped, *since_request]:  # the dump may be older than the notifications
                update_reporters(self._in_error, message)
            self._since_request = None
            if self._in_error != before:
                self._on_late_change()


def health_reporters(on_late_change: Callable[[], None]) -> HealthReporters | None:
    """Watch the health reporters of the calling thread's network namespace; `on_late_change` as in HealthReporters.

    None if the kernel has no devlink. Raises OSError.
    """
    try:
        with GenericSocket("devlink") as devlink:
            family, group = devlink.family, devlink.groups["config"]
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    subscribed = NetlinkSocket(NETLINK_GENERIC)
    subscribed.subscribe(group=group)
    return HealthReporters(subscribed, family, dump_reporters, on_late_change)
