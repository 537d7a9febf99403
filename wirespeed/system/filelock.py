"""flock(2) with a deadline."""

from __future__ import annotations

import fcntl
import os
import threading
import time


def flock_before(file: int, deadline: float) -> bool:
    """Lock the open file exclusively; return whether that succeeded before `deadline` (time.monotonic()).

    flock(2) has no timeout: if another process holds the lock, a separate thread waits for it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _wait(file, deadline)
    return True


def _wait(file: int, deadline: float) -> bool:
    copy, had = os.dup(file), threading.Event()

    def wait() -> None:
        try:
            fcntl.flock(copy, fcntl.LOCK_EX)
            had.set()
        finally:
            os.close(copy)  # the lock belongs to the open file description, which `file` keeps open

    threading.Thread(target=wait, daemon=True, name="file-lock").start()
    return had.wait(max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX)))
