"""Releases, after the start of the agent, what is held by sandboxes that the container runtime no longer knows.

After a reboot, a runtime calls DEL for the sandboxes that it had, or GC with those that it has. A runtime that lost
its own state calls neither, and the addresses of its pods would be leased for ever.

A sandbox that is running or being created must never be collected. The runtime's list is not enough to know this:
during the ADD and for some time after it, a sandbox is not on the list, as containerd lists it only when its first
process runs. So two conditions must hold. First, the attachment's network namespace is gone, or the node was
rebooted since: a runtime creates a sandbox's namespace before its ADD and removes it after its DEL. Second, the
runtime, asked after that, does not list the sandbox; if it does, its DEL is still to come. Only attachments that
were in the journal before the runtime was asked can be collected, and each namespace is checked once more when the
container has its turn among the runtime's own calls. If a namespace exists, its attachment stays, even if no
runtime lists the sandbox: it may be another runtime's.
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

_RETRY = (1.0, 60.0)  # seconds until the next attempt: the first time, and at most


class Collector:
    """Collects once, by calls on the agent's own socket; retries only while the runtime or a plugin fails."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtimes = [Path(socket) for socket in node.config.runtimes]
        self._complaint = ""  # the last problem that was logged

    def run(self, stop: threading.Event) -> None:
        """Collect, then wait until `stop` is set."""
        pause, most = _RETRY
        while not self._collect() and not stop.wait(pause):
            pause = min(most, 2 * pause)
        stop.wait()

    def _collect(self) -> bool:
        """Collect what is possible now; return whether nothing is left."""
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
        """Log why nothing is collected, once until the reason changes."""
        if text != self._complaint:
            log.warning("%s", text)
            self._complaint = text
