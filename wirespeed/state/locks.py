"""Locks of devices, between the threads of a process and between processes."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path

from wirespeed.errors import Error, Kind, Thing, os_errors
from wirespeed.system.filelock import locked
from wirespeed.system.files import open_in_folder

_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
_threads: dict[str, threading.Lock] = {}


def device_lock(folder: Path, device: str, *, deadline: float) -> AbstractContextManager[None]:
    """Hold the lock of `device`: a file in `folder`. The kernel releases it if the process dies.

    Raises Error: TRY_AGAIN if it is not free before `deadline` (time.monotonic()), IO if the folder cannot be
    used.
    """

    def opened() -> int:
        with os_errors(f"lock {folder / device}"):
            return open_in_folder(folder / device, _FLAGS, 0o600, folder_mode=0o700)

    def busy() -> Error:
        return Error(Kind.TRY_AGAIN, "another request still works on it", where=Thing("device", device))

    return locked(_threads.setdefault(device, threading.Lock()), opened, deadline=deadline, busy=busy)
