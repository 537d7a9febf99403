"""A lock of threads and processes with a deadline."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wirespeed.errors import Error
from wirespeed.trace import step


@contextmanager
def locked(
    lock: threading.Lock, opened: Callable[[], int], *, deadline: float, busy: Callable[[], Error]
) -> Iterator[None]:
    """Hold `lock`, and flock(2) of the file that `opened` opens; the kernel releases it if the process dies.

    Raises `busy()` if they are not free before `deadline` (time.monotonic()).
    """
    if not lock.acquire(blocking=False):
        with step("wait for a lock"):
            if not lock.acquire(timeout=_seconds_until(deadline)):
                raise busy()
    try:
        file = opened()
        try:
            if not _flock_before(file, deadline):
                raise busy()
            yield
        finally:
            os.close(file)
    finally:
        lock.release()


def _flock_before(file: int, deadline: float) -> bool:
    """Lock the open file exclusively; return whether that succeeded before `deadline`.

    flock(2) has no timeout: if another process holds the lock, a separate thread waits for it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with step("wait for a lock"):
            return _wait(file, deadline)
    return True


def _wait(file: int, deadline: float) -> bool:
    copy, acquired = os.dup(file), threading.Event()

    def wait() -> None:
        try:
            fcntl.flock(copy, fcntl.LOCK_EX)
            acquired.set()
        finally:
            os.close(copy)  # the lock belongs to the open file description, which `file` keeps open

    threading.Thread(target=wait, daemon=True, name="file-lock").start()
    return acquired.wait(_seconds_until(deadline))


def _seconds_until(deadline: float) -> float:
    return max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
