"""Releases, after the start of the agent, the resources of sandboxes that the container runtime no longer knows.

After a reboot, a runtime calls DEL for its old sandboxes, or GC with the list of its current ones. A runtime that
lost its own state calls neither, so the addresses of its old pods would never be released.

A sandbox that is running or being created must never be collected. The runtime's list is not enough to know this:
during the ADD and for some time after it, a sandbox is not on the list, as containerd lists it only when its first
process runs. So two conditions must hold. First, the attachment's network namespace is gone, or the node was
rebooted since: a runtime creates a sandbox's namespace before its ADD and removes it after its DEL. Second, the
runtime, asked after that, does not list the sandbox; if it does, its DEL is still to come. Only attachments that
were in the journal before the runtime was asked can be collected, and each namespace is checked once more when the
container has its turn among the runtime's own calls. If a namespace exists, its attachment stays, even if no
runtime lists the sandbox: it may be another runtime's.

A container whose record on disk is damaged has no attachment in the journal. Its record is of an earlier boot, so
for this container only the second condition must hold.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from wirespeed.agent import hotplug
from wirespeed.errors import Error
from wirespeed.kube import cri
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import netns_gone

log = logging.getLogger(__name__)

_BACKOFF = (1.0, 60.0)  # seconds until the next attempt: the first time, and at most


def run(node: Node, stop: threading.Event) -> None:
    """Collect once, then wait until `stop` is set. Retries only while the runtime or a plugin fails."""
    pause, most = _BACKOFF
    logged = ""
    while True:
        done, problem = _collect(node)
        if problem and problem != logged:
            log.warning("%s", problem)
            logged = problem
        if done or stop.wait(pause):
            break
        pause = min(most, 2 * pause)
    stop.wait()


def _collect(node: Node) -> tuple[bool, str]:
    """Collect what is possible now, by calls on the agent's own socket.

    Return whether nothing is left, and why nothing at all can be collected.
    """
    gone = node.journal.damaged_records() | {row.container for row in node.journal.attachments() if netns_gone(row)}
    if not gone:
        return True, ""
    runtimes = [Path(socket) for socket in node.config.runtimes]
    effect = f"nothing of {len(gone)} removed containers is released"
    try:
        known = cri.sandboxes(runtimes)
    except Error as error:
        return False, f"{error.msg}; until it does, {effect}"
    if known is None:
        return False, f"no runtime has a socket at {', '.join(map(str, runtimes))}: {effect} until a DEL or GC"
    done = True
    for container in sorted(gone - known):
        try:
            hotplug.call_agent(node, "COLLECT", container)
        except Error as error:
            log.warning("container %s was removed, but not everything of it is released: %s", container, error.msg)
            done = False
    return done, ""
