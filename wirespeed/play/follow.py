"""Watches the files in which the agent writes running pods' network-status and annotations."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.system.inotify import FolderWatch


@contextmanager
def followed(folder: Path, changed: Callable[[], None]) -> Iterator[None]:
    """Call `changed` in a separate thread when files in the directory change, until the context ends."""
    folder.mkdir(exist_ok=True)
    watch, end = FolderWatch(folder), os.eventfd(0)
    thread = threading.Thread(target=_follow, args=(watch, end, changed), name="annotations")
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(end, 1)
        thread.join()
        os.close(end)
        watch.close()


def _follow(watch: FolderWatch, end: int, changed: Callable[[], None]) -> None:
    poll = select.poll()
    for file in (watch.fileno(), end):
        poll.register(file, select.POLLIN)
    while True:
        if end in {file for file, _ in poll.poll()}:
            return
        if watch.events():
            changed()
