"""Folders that live as long as one run or one build."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "wirespeed-lab-"
# A folder younger than this may not be locked yet.
GRACE = 60.0


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, removed afterwards; those that killed processes have left are removed too."""
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Held until the end of this process, however it ends: sweep() of others leaves the folder alone.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Removes the folders below `parent` whose process has died."""
    for folder in parent.glob(f"{PREFIX}*"):
        # PermissionError: another user's; BlockingIOError: in use; FileNotFoundError: swept by another run.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < GRACE:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
