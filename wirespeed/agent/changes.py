"""Waiting for changes in folders (inotify), for the parts of the agent that recheck files after each change."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from wirespeed.system import inotify

log = logging.getLogger(__name__)

# Seconds after which files are checked without an event: inotify reports neither a mount over the folder nor
# changes of a symbolic link's target.
RECHECK_INTERVAL = 30.0
POLL_INTERVAL = 1.0  # the same without inotify, whose usual limit is 128 instances per user

CHANGED = (
    inotify.ENTRY_ADDED
    | inotify.ENTRY_REMOVED
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
)


@contextlib.contextmanager
def folder_changes(folder: Path, events: int = CHANGED) -> Iterator[int | None]:
    """Yield a descriptor that is readable when something changes in the folder, or its nearest existing parent.

    None if the kernel refuses another watch.
    """
    while not folder.is_dir():
        folder = folder.parent
    try:
        watch = inotify.Watch(str(folder), events | inotify.IN_ONLYDIR)
    except OSError as error:
        log.debug("inotify: %s: %s is checked every %g s", folder, error.strerror, POLL_INTERVAL)
        yield None
        return
    try:
        yield watch.fileno()
    finally:
        watch.close()


@contextlib.contextmanager
def event_descriptor(event: threading.Event, *, name: str) -> Iterator[int]:
    """Yield a descriptor that becomes readable when the event is set, by a thread called `name`."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def pass_on() -> None:
        event.wait()
        os.eventfd_write(fd, 1)

    thread = threading.Thread(target=pass_on, name=name, daemon=True)
    thread.start()
    try:
        yield fd
    finally:
        if event.is_set():  # else the process is ending with an error, and the thread with it
            thread.join()
            os.close(fd)


def wait(descriptors: Sequence[int | None], seconds: float) -> None:
    """Wait until a descriptor is readable, for at most `seconds`; at most POLL_INTERVAL if one of them is None."""
    poll = select.poll()
    for fd in descriptors:
        if fd is not None:
            poll.register(fd, select.POLLIN)
    poll.poll((min(seconds, POLL_INTERVAL) if None in descriptors else seconds) * 1000)
