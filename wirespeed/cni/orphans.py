"""Killing plugins that still run after the agent that executed them was killed, before a DEL undoes their work."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import time
from collections.abc import Iterator

from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.execute import STDIN_NAME

log = logging.getLogger(__name__)

_STDIN = f"/memfd:{STDIN_NAME} (deleted)"


def end_orphans(container: str, netns: str, *, deadline: float) -> None:
    """Kill each plugin that another process executed for the container, and wait for its end.

    `netns` is the CNI_NETNS that it was executed with. Such a plugin would continue to create what a DEL is
    removing. Raises CniError(TRY_AGAIN_LATER) if one does not end before `deadline` (time.monotonic()).
    """
    for pid, ended in _running(container, netns):
        try:
            log.warning(
                "container %s: a plugin of a killed agent still runs, process %d: ending it", container, pid
            )
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # it leads a process group, with the processes that it started
            poller = select.poll()  # select(2) fails for descriptors above 1023
            poller.register(ended, select.POLLIN)
            if not poller.poll(math.ceil(1000 * max(0.0, min(deadline - time.monotonic(), 3600.0)))):
                raise CniError(Code.TRY_AGAIN_LATER, f"a plugin of a killed agent does not end, process {pid}")
        finally:
            os.close(ended)


def _running(container: str, netns: str) -> Iterator[tuple[int, int]]:
    """Yield (PID, pidfd) of each such plugin; the caller closes the pidfd."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or not _is_plugin(name, container, netns):
            continue
        try:
            ended = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        if _is_plugin(name, container, netns):  # checked again, as the PID may have been reused before the open
            yield int(name), ended
        else:
            os.close(ended)


def _is_plugin(pid: str, container: str, netns: str) -> bool:
    """Whether the process is a plugin of the container that `wirespeed.cni.execute` of another process started."""
    try:
        if os.readlink(f"/proc/{pid}/fd/0") != _STDIN:
            return False
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = set(file.read().split(b"\0"))
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
    except OSError:  # it has ended
        return False
    wanted = {f"CNI_CONTAINERID={container}".encode(), f"CNI_NETNS={netns}".encode()}
    return wanted <= environ and parent != os.getpid()
