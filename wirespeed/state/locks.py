"""One worker at a time on a device: among the threads of a process, and among processes."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.cni.errors import CniError, Code

_threads: dict[str, threading.Lock] = {}


@contextmanager
def device_lock(folder: Path, device: str, *, deadline: float) -> Iterator[None]:
    """Hold the lock of `device`, a file in `folder` that the kernel frees when its holder dies.

    Waits for threads of this process until `deadline` (time.monotonic()), then raises
    CniError(TRY_AGAIN_LATER); another process keeps the lock no longer than its own deadline.
    """
    lock = _threads.setdefault(device, threading.Lock())
    if not lock.acquire(timeout=max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))):
        raise CniError(Code.TRY_AGAIN_LATER, f"device {device}: another request still works on it")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / device, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)
    finally:
        lock.release()
