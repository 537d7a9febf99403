"""Temporary directories of a run or a build. Those of killed processes are removed by a later run."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "wirespeed-lab-"
# A directory younger than this many seconds may not be locked yet.
GRACE = 60.0


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a directory and remove it at the end. Also remove those that killed processes have left."""
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Held until this process ends, no matter how, so that sweep() of other processes skips the directory.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the directories in `parent` whose process has ended."""
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
