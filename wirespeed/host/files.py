"""Files that others read while they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path


def unfinished(name: str) -> str:
    """The name of a file while it is written, for those who write one atomically and remove what they have left."""
    return f".{name}.new"


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Write the file so that whoever opens it finds the old content or the new one, also after a power cut.

    Its folder is there. The file is made under a hidden name ending in ".new", which no runtime takes for a
    CNI configuration, and renamed. Raises OSError.
    """
    new = path.with_name(unfinished(path.name))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until what was renamed or removed in the folder is on the disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_for_writing(path: Path) -> bool | None:
    """Whether somebody has the file open to write it; None where the kernel does not tell of this file.

    The kernel gives a read lease (fcntl(2), F_SETLEASE) on no file that is open for writing. It is held for a
    moment: who opens the file then is let go on as it ends. Raises OSError for a file that cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Told of one who wants to write by a signal that does nothing; the usual one, SIGIO, ends the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None  # EINVAL, EACCES: no leases there, or not for us
    finally:
        os.close(fd)
    return False
