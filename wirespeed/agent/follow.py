"""Follows the networks annotation of this node's pods: attaches networks that are added, detaches removed ones."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from wirespeed.agent import hotplug
from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import Key
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import recorded_delegate
from wirespeed.plugins.meta.selection import NETWORKS

log = logging.getLogger(__name__)

_WORKERS = 4  # pods that are changed at once
_BACKOFF = (1.0, 60.0)  # seconds until a retry after a failure: the first time, and at most
_IDLE = 3600.0  # seconds to wait if there is nothing to do


@dataclass
class _Pod:
    """A pod of the node: its annotation, and whether its attachments match it."""

    wanted: str  # UID and annotation
    followed: str = ""  # the value of `wanted` that its attachments match
    pending: bool = True
    running: bool = False
    due: float = 0.0  # a time.monotonic() value
    failures: int = 0  # in a row


class Follower:
    """Makes each pod's attachments match its annotation, by calls on the agent's own socket.

    Raises Error(INVALID_CONFIG) for a folder of manifests, which reports no changes.
    """

    def __init__(self, node: Node) -> None:
        if node.config.cluster.manifests:
            text = "it needs an API server, as a folder of manifests does not report changes"
            raise Error(Kind.INVALID_CONFIG, text, key="followNetworks")
        self._node = node
        self._changed = threading.Condition()
        self._pods: dict[Key, _Pod] = {}
        self._stopping = False

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        stopper = threading.Thread(target=self._await_stop, args=(stop,), name="follow end", daemon=True)
        stopper.start()
        self._node.cluster.on_pod_change(self._on_pod_change)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="follow") as workers:
            while (due := self._next_due()) is not None:
                workers.submit(self._serve, *due)
        stopper.join()

    def _await_stop(self, stop: threading.Event) -> None:
        stop.wait()
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _on_pod_change(self, key: Key, found: dict[str, Any] | None) -> None:
        """Note that a pod was added, changed or deleted. Called by the watch, so it must be quick."""
        with self._changed:
            if found is None or found["spec"].get("hostNetwork"):
                self._pods.pop(key, None)
                return
            metadata = found["metadata"]
            wanted = f"{metadata['uid']} {metadata['annotations'].get(NETWORKS) or ''}"
            pod = self._pods.setdefault(key, _Pod(wanted))
            pod.wanted = wanted
            if wanted != pod.followed:
                pod.pending, pod.due = True, 0.0
                self._changed.notify()

    def _next_due(self) -> tuple[Key, _Pod] | None:
        """Wait for the next pod that is due, and mark it as running; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                waiting = {key: pod.due for key, pod in self._pods.items() if pod.pending and not pod.running}
                key = min(waiting, key=lambda key: waiting[key], default=None)
                if key is not None and waiting[key] <= now:
                    pod = self._pods[key]  # the worker gets the object: the key may get a new pod meanwhile
                    pod.pending, pod.running = False, True
                    return key, pod
                self._changed.wait(_IDLE if key is None else waiting[key] - now)
            return None

    def _serve(self, key: Key, pod: _Pod) -> None:
        wanted, followed, failed = pod.wanted, False, True
        try:
            followed, failed = self._follow(*key), False
        except Error as error:
            log.warning("pod %s/%s: networks of its annotation: %s", *key, error.msg)
        except Exception:
            log.exception("pod %s/%s: networks of its annotation", *key)
        with self._changed:
            pod.running = False
            pod.followed = wanted if followed else ""
            pod.failures = pod.failures + 1 if failed else 0
            if failed:
                first, most = _BACKOFF
                pod.pending, pod.due = True, time.monotonic() + min(most, first * 2.0 ** min(pod.failures - 1, 16))
            self._changed.notify()

    def _follow(self, namespace: str, name: str) -> bool:
        """Update a pod's attachments; return whether it is attached: before that, its ADD reads the annotation."""
        followed = False
        for row in hotplug.master_rows(self._node.journal, namespace, name):
            followed = True
            if not recorded_delegate(row).settings:
                text = "pod %s/%s was attached by another version: its annotation is not followed"
                log.info(text, namespace, name)
                continue
            try:
                hotplug.call_agent(self._node, "FOLLOW", row.container)
            except Error as error:
                if error.kind != Kind.NOT_ATTACHED:  # detached meanwhile
                    raise
        return followed
