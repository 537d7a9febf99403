"""A cache of the objects of one resource: listed once, then kept current by watches."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import msgspec

from wirespeed.kube.api import Api, RefusedError, Timeouts, UnreachableError
from wirespeed.kube.cluster import Key, Listener, Object

log = logging.getLogger(__name__)

_LIST = Timeouts(connect=3.0, read=30.0, total=60.0)
_WATCH = Timeouts(connect=3.0, read=10.0, total=30.0)  # until a watch begins
_DURATION = 300  # seconds that a watch lasts, plus up to as many at random, so that watches do not end together
_MAX_SILENCE = 30.0  # seconds after the requested end of a watch, after which a silent server is given up
_BACKOFF = (0.2, 30.0)  # seconds between attempts: the first, and at most


class WatchCache:
    """The objects at `path` that `query` selects, trimmed, kept current by a thread until `api` is closed.

    `synced` is set after the first list. While the API server does not answer, the last known objects stay.
    """

    def __init__(self, api: Api, path: str, query: Mapping[str, str], trim: Callable[[Object], Object]) -> None:
        self.synced = threading.Event()
        self._api, self._path, self._query, self._trim = api, path, query, trim
        self._changed = threading.Condition()
        self._objects: dict[Key, Object] = {}
        self._version = ""  # the resourceVersion at which the next watch starts; "": list first
        self._failures = 0  # in a row
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    @property
    def is_healthy(self) -> bool:
        """Whether the objects are known and the last watch attempt did not fail."""
        return self.synced.is_set() and not self._failures

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, after the API is closed."""
        self._thread.join()

    def get(self, namespace: str, name: str) -> Object | None:
        """Return the object, which must not be modified; None if it is not in the cache (yet)."""
        with self._changed:
            return self._objects.get((namespace, name))

    def values(self) -> list[Object]:
        """Return all known objects, which must not be modified."""
        with self._changed:
            return list(self._objects.values())

    def listen(self, listener: Listener) -> None:
        """Call the listener for all known objects, and then for each that is added, changed or deleted.

        The calls are made one at a time, by this thread and then by the watch's, which waits for them.
        """
        with self._changed:
            self._listeners.append(listener)
            for key, value in self._objects.items():
                listener(key, value)

    def wait_for(self, condition: Callable[[Mapping[Key, Object]], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds until the objects meet the condition; return whether they do."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._objects), timeout)

    def _run(self) -> None:
        while not self._api.closed.is_set():
            retry_after = 0.0
            try:
                if not self._version:
                    self._list()
                self._watch()
            except UnreachableError as error:
                self._log_failure(error)
            except RefusedError as error:
                if error.status not in (401, 429) and error.status < 500:
                    self._version = ""  # most often 410: the server no longer has the events since then
                retry_after = error.retry_after or 0.0
                self._log_failure(error)
            except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
                self._version = ""
                self._log_failure(error)
            self._pause(retry_after)

    def _log_failure(self, error: Exception) -> None:
        """Count a failure; warn at the second in a row. A single one is mostly a restart or an expired version."""
        self._failures += 1
        if not self._api.closed.is_set():
            level = logging.WARNING if self._failures == 2 else logging.DEBUG
            log.log(level, "watch of %s: %s; using the objects in the cache", self._path, error)

    def _log_recovery(self) -> None:
        if self._failures > 1:
            log.info("watch of %s: it works again", self._path)
        self._failures = 0

    def _pause(self, retry_after: float) -> None:
        """Pause between two watches: longer after each failure in a row, and as long as the server requests."""
        first, most = _BACKOFF
        seconds = jitter(min(most, first * 2.0 ** min(self._failures, 16)))
        self._api.closed.wait(max(seconds, min(retry_after, most)))

    def _list(self) -> None:
        items, version = list_all(self._api, self._path, self._query, self._trim, timeouts=_LIST)
        with self._changed:
            gone, self._objects = self._objects, {_key(item): item for item in items}
            self._version = version
            self._notify(*{**gone, **self._objects})
        self.synced.set()

    def _watch(self) -> None:
        duration = _DURATION + int(jitter(_DURATION))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(duration),
        }
        before, began = self._version, time.monotonic()
        with closing(self._api.lines(self._path, query, timeouts=_WATCH, silence=duration + _MAX_SILENCE)) as lines:
            for line in lines:
                self._apply(msgspec.json.decode(line))
        if self._version == before and time.monotonic() - began < 1.0:
            raise UnreachableError("the watch ended at once")
        self._log_recovery()

    def _apply(self, event: Object) -> None:
        kind, value = event["type"], event["object"]
        if kind == "ERROR":
            raise RefusedError(int(value.get("code") or 500), str(value.get("message")))
        version = value["metadata"]["resourceVersion"]
        self._log_recovery()
        with self._changed:
            if kind in ("ADDED", "MODIFIED"):
                self._objects[_key(value)] = self._trim(value)
            elif kind == "DELETED":
                self._objects.pop(_key(value), None)
            self._version = version
            if kind != "BOOKMARK":
                self._notify(_key(value))

    def _notify(self, *keys: Key) -> None:
        """Notify the listeners and `wait_for` that the objects with these keys have changed."""
        for listener in self._listeners:
            for key in keys:
                listener(key, self._objects.get(key))
        self._changed.notify_all()


def list_all(
    api: Api, path: str, query: Mapping[str, str], trim: Callable[[Object], Object], *, timeouts: Timeouts
) -> tuple[list[Object], str]:
    """Return all objects at `path` that `query` selects, trimmed, and the version at which a watch can start.

    `timeouts` applies to each page of a long list. Raises RefusedError, UnreachableError.
    """
    found: list[Object] = []
    query = {**query, "limit": "500"}
    while True:
        items, metadata = api.page(path, query, timeouts=timeouts)
        found += map(trim, items)
        if not metadata.get("continue"):
            return found, metadata["resourceVersion"]
        query["continue"] = metadata["continue"]


def _key(value: Object) -> Key:
    return value["metadata"].get("namespace", ""), value["metadata"]["name"]


def pick(value: Mapping[str, Any] | None, *keys: str) -> Object:
    """Return what the object has of these keys."""
    return {key: value[key] for key in keys if key in value} if value else {}


def jitter(seconds: float) -> float:
    """Return a random time between half of it and all of it, so that nodes do not act at the same time."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
