"""Waiting until an executable is no longer open for writing; the kernel refuses to run it before (ETXTBSY)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from wirespeed.system.inotify import IN_CLOSE_WRITE, IN_DELETE_SELF, IN_MOVE_SELF, Watch

T = TypeVar("T")


def once_written(file: str, call: Callable[[], T], *, until: float) -> T:
    """Return `call()`; while it raises OSError(ETXTBSY), retry it each time that a writer closes `file`.

    Raises ETXTBSY if that lasts until `until` (time.monotonic()), and any other error at once.
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
