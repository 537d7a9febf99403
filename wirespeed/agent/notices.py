"""Waiting for what happens in folders, for a part of the agent that looks again at each notice."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from wirespeed.cni import inotify
from wirespeed.host import inotify as folders

log = logging.getLogger(__name__)

# Seconds until it is looked without a notice: inotify tells neither that a folder was mounted over nor of what
# a symbolic link leads to.
LOOK_AGAIN = 30.0
BLIND_LOOK = 1.0  # the same where there is no inotify: 128 instances a user are its usual limit

CHANGED = folders.CAME | folders.WENT | inotify.IN_CLOSE_WRITE | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF


@contextlib.contextmanager
def noticed(folder: Path, events: int = CHANGED) -> Iterator[int | None]:
    """A descriptor that is readable when something happens in the folder, or in the nearest one above it.

    None where the kernel watches no more folders.
    """
    while not folder.is_dir():
        folder = folder.parent
    try:
        watch = inotify.Watch(str(folder), events | inotify.IN_ONLYDIR)
    except OSError as error:
        log.debug("inotify: %s: %s is looked at every %g s", folder, error.strerror, BLIND_LOOK)
        yield None
        return
    try:
        yield watch.fileno()
    finally:
        watch.close()


@contextlib.contextmanager
def readable_once(event: threading.Event, *, name: str) -> Iterator[int]:
    """A descriptor that is readable when the event is set; `name` is that of the thread that sees to it."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def pass_on() -> None:
        event.wait()
        os.eventfd_write(fd, 1)

    thread = threading.Thread(target=pass_on, name=name, daemon=True)
    thread.start()
    try:
        yield fd
    finally:
        if event.is_set():  # else the process ends by an error, and the thread with it
            thread.join()
            os.close(fd)


def wait(descriptors: Sequence[int | None], seconds: float) -> None:
    """Wait until one of them is readable, at most for that time, or a moment where one of them is None."""
    poll = select.poll()
    for fd in descriptors:
        if fd is not None:
            poll.register(fd, select.POLLIN)
    poll.poll((min(seconds, BLIND_LOOK) if None in descriptors else seconds) * 1000)
