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

from wirespeed.cni.execute import STDIN_NAME
from wirespeed.errors import Error, Kind

log = logging.getLogger(__name__)

_STDIN = f"/memfd:{STDIN_NAME} (deleted)"


def kill_orphans(container: str, netns: str, *, deadline: float) -> None:
    """Kill each plugin that another process executed for the container, and wait for its end.

    `netns` is the CNI_NETNS that it was executed with. Such a plugin would continue to create what a DEL is
    removing, and so would the processes that it started, such as an IPAM plugin: a killed process still completes
    the system call that it is in. Raises Error(TRY_AGAIN) if one does not end before `deadline` (time.monotonic()).
    """
    for pid, ended in _running(container, netns):
        log.warning(
            "container %s: process %d, a plugin executed by a killed agent, still runs: killing it", container, pid
        )
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # it leads a process group, with the processes that it started
        _wait_for_end(pid, ended, deadline)
        while members := _members(pid):
            for member in members:
                with contextlib.suppress(ProcessLookupError):
                    _wait_for_end(member, os.pidfd_open(member), deadline)


def _wait_for_end(pid: int, ended: int, deadline: float) -> None:
    """Wait until the process of a pidfd has ended; close the pidfd."""
    try:
        poller = select.poll()  # select(2) fails for descriptors above 1023
        poller.register(ended, select.POLLIN)
        if not poller.poll(math.ceil(1000 * max(0.0, min(deadline - time.monotonic(), 3600.0)))):
            raise Error(Kind.TRY_AGAIN, f"process {pid}, a plugin of a killed agent, does not end")
    finally:
        os.close(ended)


def _members(group: int) -> list[int]:
    """Return the processes of a process group that have not ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            state, _, process_group = _stat(name)[:3]
            if int(process_group) == group and state not in "ZX":
                found.append(int(name))
    return found


def _stat(pid: str) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on: state, parent, process group (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()


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
        parent = int(_stat(pid)[1])
    except OSError:  # it has ended
        return False
    wanted = {f"CNI_CONTAINERID={container}".encode(), f"CNI_NETNS={netns}".encode()}
    return wanted <= environ and parent != os.getpid()
