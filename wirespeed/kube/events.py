"""Kubernetes events, written by a separate thread, so that reporting one neither waits nor fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from wirespeed.kube.api import Api, RefusedError, Timeouts, UnreachableError
from wirespeed.kube.cluster import Event
from wirespeed.text import clock

log = logging.getLogger(__name__)

_EVENTS = "/api/v1/namespaces/{namespace}/events"
_TIMEOUTS = Timeouts(connect=2.0, read=4.0, total=6.0)
_MAX_QUEUED = 1000  # the longest queue of events to be written; further events are dropped
_MAX_REMEMBERED = 4096  # events that are remembered, so that repetitions are counted, not written as new events
_REPEATED_WITHIN = 1800.0  # seconds; the API server keeps an event for an hour
_FLUSH = 1.0  # seconds that closing waits for events that are still queued
_MESSAGE = 1024  # longest message that the API server accepts, in characters
_NAME = 253  # longest name that it accepts
_COMPONENT = "wirespeed"


@dataclass
class _Written:
    """An event in the API server: its name, how often it happened, and when it was last written."""

    name: str
    count: int
    at: float


class Events:
    """Writes events to the API server, in the order in which they came; `host` is this node's name.

    Repetitions of an event of one object are written once, with a count: those that are queued together, and those
    within half an hour. Events that cannot be written are dropped and counted in `dropped`.
    """

    def __init__(self, api: Api, host: str) -> None:
        self._api, self._host = api, host
        self._changed = threading.Condition()
        self._queue: OrderedDict[Event, int] = OrderedDict()  # the queue, with how often each happened
        self._written: OrderedDict[Event, _Written] = OrderedDict()  # the one written last is at the end
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failing = ""  # why the last one could not be written
        self.dropped = 0

    def send(self, event: Event) -> None:
        with self._changed:
            if self._closing or (event not in self._queue and len(self._queue) >= _MAX_QUEUED):
                self.dropped += 1
                return
            self._queue[event] = self._queue.get(event, 0) + 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self) -> None:
        """Accept no more events, and wait a moment until those in the queue are written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_FLUSH)

    def join(self) -> None:
        """Wait for the thread's end, after the API is closed."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            event, times = taken
            try:
                self._write(event, times)
            except UnreachableError as error:
                self._log_failure(times, error)
            except RefusedError as error:
                if error.status in (403, 404):  # 404: its namespace is being deleted, together with the pod
                    self._log_failure(times, error)
                else:
                    log.debug("event of %s %s: %s", event.kind, event.name, error)
                    self._drop(times)
            else:
                if self._failing:
                    log.info("events: they are written again; %d were dropped until now", self.dropped)
                self._failing = ""

    def _next(self) -> tuple[Event, int] | None:
        """Wait for the next event in the queue; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue or self._api.closed.is_set():
                self.dropped += sum(self._queue.values())
                self._queue.clear()
                return None
            return self._queue.popitem(last=False)

    def _write(self, event: Event, times: int) -> None:
        written = self._written.pop(event, None)
        if written is not None and time.monotonic() - written.at < _REPEATED_WITHIN:
            written.count, written.at = written.count + times, time.monotonic()
            if self._count(event, written):
                self._written[event] = written
                return
        self._written[event] = self._post(event, times)
        while len(self._written) > _MAX_REMEMBERED:
            self._written.popitem(last=False)

    def _count(self, event: Event, written: _Written) -> bool:
        """Write the count of a repeated event; return whether the event still exists."""
        path = f"{_path(event)}/{quote(written.name, safe='')}"
        try:
            self._api.patch(path, {"count": written.count, "lastTimestamp": clock(time.time())}, timeouts=_TIMEOUTS)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _post(self, event: Event, times: int) -> _Written:
        mark = f".{time.time_ns():x}"
        written = _Written(event.name[: _NAME - len(mark)] + mark, times, time.monotonic())
        try:
            self._api.post(_path(event), self._object(event, written), timeouts=_TIMEOUTS)
        except RefusedError as error:
            if error.status != 409:  # 409: it exists, as the answer to the first attempt was lost
                raise
        return written

    def _object(self, event: Event, written: _Written) -> dict[str, Any]:
        now = clock(time.time())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": written.name, "namespace": event.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": event.kind,
                **({"namespace": event.namespace} if event.kind == "Pod" else {}),
                "name": event.name,
                "uid": event.uid,
            },
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "message": event.message[:_MESSAGE],
            "source": {"component": _COMPONENT, "host": self._host},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": written.count,
        }

    def _log_failure(self, times: int, error: Exception) -> None:
        """Count the dropped events; log the failure once until writing works again."""
        self._drop(times)
        if not self._failing and not self._api.closed.is_set():
            log.warning("events: %s; they are dropped", error)
        self._failing = str(error)

    def _drop(self, times: int) -> None:
        with self._changed:
            self.dropped += times


def _path(event: Event) -> str:
    return _EVENTS.format(namespace=quote(event.namespace, safe=""))
