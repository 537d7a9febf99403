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

from wirespeed.kube.api import Api, Patience, RefusedError, UnreachableError

log = logging.getLogger(__name__)

_LIST = Patience(connect=3.0, read=30.0, total=60.0)
_WATCH = Patience(connect=3.0, read=10.0, total=30.0)  # until a watch begins
_LASTS = 300  # seconds that a watch lasts; up to as many are added at random, so that watches do not end together
_SILENCE = 30.0  # seconds after the requested end of a watch, after which a silent server is given up
_BACKOFF = (0.2, 30.0)  # seconds between attempts: the first, and at most

Key = tuple[str, str]  # namespace ("" for an object of the cluster), name
Listener = Callable[[Key, dict[str, Any] | None], None]  # gets the object as it is now, None if it was deleted


class WatchCache:
    """The objects at `path` that `query` selects, trimmed, kept current by a thread until `api` is closed.

    `synced` is set after the first list. While the API server does not answer, the last known objects stay.
    """

    def __init__(
        self, api: Api, path: str, query: Mapping[str, str], trim: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.synced = threading.Event()
        self._api, self._path, self._query, self._trim = api, path, query, trim
        self._changed = threading.Condition()
        self._objects: dict[Key, dict[str, Any]] = {}
        self._version = ""  # the resourceVersion at which the next watch starts; "": list first
        self._failures = 0  # in a row
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    @property
    def at_work(self) -> bool:
        """Whether the objects are known and the last watch attempt did not fail."""
        return self.synced.is_set() and not self._failures

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, after the API is closed."""
        self._thread.join()

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return the object, which must not be modified; None if it is not in the cache (yet)."""
        with self._changed:
            return self._objects.get((namespace, name))

    def values(self) -> list[dict[str, Any]]:
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

    def wait_for(self, condition: Callable[[Mapping[Key, dict[str, Any]]], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds until the objects meet the condition; return whether they do."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._objects), timeout)

    def _run(self) -> None:
        while not self._api.closed.is_set():
            asked = 0.0
            try:
                if not self._version:
                    self._list()
                self._watch()
            except UnreachableError as error:
                self._failed(error)
            except RefusedError as error:
                if error.status not in (401, 429) and error.status < 500:
                    self._version = ""  # most often 410: the server no longer has the events since then
                asked = error.retry_after or 0.0
                self._failed(error)
            except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
                self._version = ""
                self._failed(error)
            self._pause(asked)

    def _failed(self, error: Exception) -> None:
        """Count a failure; warn at the second in a row. A single one is mostly a restart or an expired version."""
        self._failures += 1
        if not self._api.closed.is_set():
            level = logging.WARNING if self._failures == 2 else logging.DEBUG
            log.log(level, "watch of %s: %s; going on with what is known", self._path, error)

    def _works(self) -> None:
        if self._failures > 1:
            log.info("watch of %s: it works again", self._path)
        self._failures = 0

    def _pause(self, asked: float) -> None:
        """Pause between two watches: longer after each failure in a row, and as long as the server requests."""
        first, most = _BACKOFF
        seconds = jitter(min(most, first * 2.0 ** min(self._failures, 16)))
        self._api.closed.wait(max(seconds, min(asked, most)))

    def _list(self) -> None:
        items, version = listed(self._api, self._path, self._query, self._trim, patience=_LIST)
        with self._changed:
            gone, self._objects = self._objects, {_key(item): item for item in items}
            self._version = version
            self._tell(*{**gone, **self._objects})
        self.synced.set()

    def _watch(self) -> None:
        """Process events until the API server ends the watch."""
        lasts = _LASTS + int(jitter(_LASTS))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(lasts),
        }
        before, began = self._version, time.monotonic()
        with closing(self._api.lines(self._path, query, patience=_WATCH, silence=lasts + _SILENCE)) as lines:
            for line in lines:
                self._take(msgspec.json.decode(line))
        if self._version == before and time.monotonic() - began < 1.0:
            raise UnreachableError("the watch ended as it began")
        self._works()

    def _take(self, event: dict[str, Any]) -> None:
        kind, value = event["type"], event["object"]
        if kind == "ERROR":
            raise RefusedError(int(value.get("code") or 500), str(value.get("message")))
        version = value["metadata"]["resourceVersion"]
        self._works()
        with self._changed:
            if kind in ("ADDED", "MODIFIED"):
                self._objects[_key(value)] = self._trim(value)
            elif kind == "DELETED":
                self._objects.pop(_key(value), None)
            self._version = version
            if kind != "BOOKMARK":
                self._tell(_key(value))

    def _tell(self, *keys: Key) -> None:
        """Notify the listeners and `wait_for` that the objects with these keys have changed."""
        for listener in self._listeners:
            for key in keys:
                listener(key, self._objects.get(key))
        self._changed.notify_all()


def listed(
    api: Api,
    path: str,
    query: Mapping[str, str],
    trim: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    patience: Patience,
) -> tuple[list[dict[str, Any]], str]:
    """Return all objects at `path` that `query` selects, trimmed, and the version at which a watch can start.

    `patience` applies to each page of a long list. Raises RefusedError, UnreachableError.
    """
    found: list[dict[str, Any]] = []
    query = {**query, "limit": "500"}
    while True:
        items, metadata = api.page(path, query, patience=patience)
        found += map(trim, items)
        if not metadata.get("continue"):
            return found, metadata["resourceVersion"]
        query["continue"] = metadata["continue"]


def _key(value: dict[str, Any]) -> Key:
    return value["metadata"].get("namespace", ""), value["metadata"]["name"]


def jitter(seconds: float) -> float:
    """Return a random time between half of it and all of it, so that nodes do not act at the same time."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
