"""The objects of one resource, kept in memory: listed once, then followed by watches."""

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
_LASTS = 300  # seconds that a watch lasts, plus up to as many again, so that watches do not end together
_SILENCE = 30.0  # seconds beyond its end, as the server was asked for it, that a watch is waited for
_BACKOFF = (0.2, 30.0)  # seconds between attempts: the first, and at most

Key = tuple[str, str]  # namespace ("" for an object of the cluster), name
Listener = Callable[[Key, dict[str, Any] | None], None]  # of an object as it is now, None when it is gone


class WatchCache:
    """The objects at `path` that `query` selects, trimmed, kept current by a thread until `api` is closed.

    `synced` is set when the first list is there. While the API server does not answer, the objects stay what
    they were.
    """

    def __init__(
        self, api: Api, path: str, query: Mapping[str, str], trim: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.synced = threading.Event()
        self._api, self._path, self._query, self._trim = api, path, query, trim
        self._changed = threading.Condition()
        self._objects: dict[Key, dict[str, Any]] = {}
        self._version = ""  # where the next watch goes on; "" is: list first
        self._failures = 0  # in a row
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    @property
    def at_work(self) -> bool:
        """Whether the objects are known, and the last attempt to follow them did not fail."""
        return self.synced.is_set() and not self._failures

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, once the API is closed."""
        self._thread.join()

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, not to be changed; None when it is not in the cache (yet)."""
        with self._changed:
            return self._objects.get((namespace, name))

    def values(self) -> list[dict[str, Any]]:
        """All objects that are known, not to be changed."""
        with self._changed:
            return list(self._objects.values())

    def listen(self, listener: Listener) -> None:
        """Have the listener told of all objects that are there, and of each that comes, changes or goes.

        Its calls come one after another, from this thread and the watch's, and the watch waits for them.
        """
        with self._changed:
            self._listeners.append(listener)
            for key, value in self._objects.items():
                listener(key, value)

    def wait_for(self, condition: Callable[[Mapping[Key, dict[str, Any]]], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds until the objects meet the condition; whether they do."""
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
                    self._version = ""  # most often 410: what came since is forgotten
                asked = error.retry_after or 0.0
                self._failed(error)
            except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
                self._version = ""
                self._failed(error)
            self._pause(asked)

    def _failed(self, error: Exception) -> None:
        """Tell of it when it lasts: a single failure is a server that restarts, or forgot what came since."""
        self._failures += 1
        if not self._api.closed.is_set():
            level = logging.WARNING if self._failures == 2 else logging.DEBUG
            log.log(level, "watch of %s: %s; going on with what is known", self._path, error)

    def _works(self) -> None:
        if self._failures > 1:
            log.info("watch of %s: it works again", self._path)
        self._failures = 0

    def _pause(self, asked: float) -> None:
        """Between two watches: short, longer after each failure in a row, or what the server asks for."""
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
        """Take events until the API server ends the watch."""
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
        """The objects of these keys have changed."""
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
    """All objects at `path` that `query` selects, trimmed, and the version from which a watch goes on.

    `patience` is for each part of a long list. Raises RefusedError, UnreachableError.
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
    """Something between the half and the whole of it, so that nodes do not act together."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
