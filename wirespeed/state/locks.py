"""Locks of devices, between the threads of a process and between processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.system.filelock import flock_before

_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
_threads: dict[str, threading.Lock] = {}


@contextmanager
def device_lock(folder: Path, device: str, *, deadline: float) -> Iterator[None]:
    """Hold the lock of `device`: a file in `folder`, which the kernel unlocks if its holder dies.

    Raises CniError: TRY_AGAIN_LATER if it is not free before `deadline` (time.monotonic()), IO_FAILURE if the
    folder cannot be used.
    """
    lock = _threads.setdefault(device, threading.Lock())
    if not lock.acquire(timeout=max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))):
        raise _busy(device)
    try:
        file = _open(folder, device)
        try:
            if not flock_before(file, deadline):
                raise _busy(device)
            yield
        finally:
            os.close(file)
    finally:
        lock.release()


def _open(folder: Path, device: str) -> int:
    try:
        try:
            return os.open(folder / device, _FLAGS, 0o600)
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(folder / device, _FLAGS, 0o600)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"lock {folder / device}: {error.strerror}") from error


def _busy(device: str) -> CniError:
    return CniError(Code.TRY_AGAIN_LATER, f"device {device}: another request still works on it")
