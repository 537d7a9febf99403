"""Gives back what sandboxes hold that the container runtime no longer knows, after the agent has started.

A runtime calls DEL for what it had before a reboot, or GC with what it has. One that lost its own state calls
neither, and the addresses of its pods would be leased for ever.

A sandbox that lives must never be collected, nor one that is being made. While its networks are made, and for some
time after, the runtime has it on no list: containerd notes a sandbox after its ADD, when its first process runs. So
two things must hold. First, the attachment's network namespace is gone, or the node was restarted since: a runtime
makes a sandbox's namespace before its ADD and removes it after its DEL. Second, the runtime, asked after that was
seen, does not have the sandbox; if it has, its DEL is still to come. Only what the journal held before the runtime
was asked can be collected, and each namespace is looked for again when the container has its turn among the
runtime's own calls. What has a namespace stays, whatever the runtime says: it may be another runtime's.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from wirespeed.agent import hotplug
from wirespeed.cni.errors import CniError
from wirespeed.kube import cri
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import departed

log = logging.getLogger(__name__)

_RETRY = (1.0, 60.0)  # seconds until it is tried again: the first time, and at most


class Collector:
    """Collects once, by calls of the agent's own socket; again only while the runtime or a plugin fails."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtimes = [Path(socket) for socket in node.config.runtimes]
        self._complaint = ""  # the last one that was logged

    def run(self, stop: threading.Event) -> None:
        """Collect, and wait for `stop`."""
        pause, most = _RETRY
        while not self._collect() and not stop.wait(pause):
            pause = min(most, 2 * pause)
        stop.wait()

    def _collect(self) -> bool:
        """Whether nothing is left to collect."""
        gone = {row.container for row in self._node.journal.attachments() if departed(row)}
        if not gone:
            return True
        try:
            known = cri.sandboxes(self._runtimes)
        except CniError as error:
            self._complain(f"{error.msg}; what {len(gone)} containers had that are gone is kept until it does")
            return False
        if known is None:
            sockets = ", ".join(map(str, self._runtimes))
            self._complain(
                f"no runtime has a socket at {sockets}: what {len(gone)} containers had that are gone is kept "
                "until a DEL or GC"
            )
            return False
        done = [self._collect_one(container) for container in sorted(gone - known)]
        return all(done)

    def _collect_one(self, container: str) -> bool:
        try:
            hotplug.ask(self._node, "COLLECT", container)
        except CniError as error:
            log.warning("container %s is gone, and not all that it had is given back: %s", container, error.msg)
            return False
        return True

    def _complain(self, text: str) -> None:
        """Say why nothing is collected, once until that changes."""
        if text != self._complaint:
            log.warning("%s", text)
            self._complaint = text
