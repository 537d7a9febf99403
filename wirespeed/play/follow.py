"""Calls a function whenever the entries of a directory change."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.system.inotify import FolderWatch


@contextmanager
def watching(folder: Path, changed: Callable[[], None], name: str) -> Iterator[None]:
    """Call `changed` in a thread `name`: now, and when entries of the directory change, until the context ends."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    watch, end = FolderWatch(folder), os.eventfd(0)
    thread = threading.Thread(target=_follow, args=(watch, end, changed), name=name)
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
        changed()
        if end in {file for file, _ in poll.poll()}:
            return
        watch.events()  # only what exists now matters, not the events
