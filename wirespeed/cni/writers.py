"""Waiting for those who write a file to be done with it: the kernel refuses to run it until then (ETXTBSY)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from wirespeed.cni.inotify import IN_CLOSE_WRITE, IN_DELETE_SELF, IN_MOVE_SELF, Watch

T = TypeVar("T")


def once_written(file: str, call: Callable[[], T], *, until: float) -> T:
    """`call()`, again each time that a writer of `file` closes it, while it raises OSError(ETXTBSY).

    After `until` (time.monotonic()) its ETXTBSY is raised, as is any other error at once.
    """
    watch = Watch(file, IN_CLOSE_WRITE | IN_MOVE_SELF | IN_DELETE_SELF)
    try:
        while True:
            try:
                return call()
            except OSError as error:
                left = until - time.monotonic()
                if error.errno != errno.ETXTBSY or left <= 0:
                    raise
            watch.wait(left)
            watch.events()
    finally:
        watch.close()
