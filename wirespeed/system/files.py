"""Atomic writing of files, and detection of files that changed or that another process is writing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

FileState = tuple[int, int, int] | None  # mtime in ns, inode, size; None: no such file


def file_state(file: str) -> FileState:
    """Return what differs after the file was written or replaced; of a symbolic link, that of its target."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def temporary_name(name: str) -> str:
    """Return the temporary name of a file that is written atomically, also for removing an interrupted write."""
    return f".{name}.new"


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Write the file so that a reader finds either the old or the new content, also after a power failure.

    The folder must exist. The file is written under a hidden name ending in ".new", which no runtime reads as a
    CNI configuration, and then renamed. Raises OSError.
    """
    new = path.with_name(temporary_name(path.name))
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


def open_in_folder(path: str | Path, flags: int, mode: int, *, folder_mode: int) -> int:
    """Return a file descriptor like os.open; create the folder if it is missing. Raises OSError."""
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def sync_folder(folder: Path) -> None:
    """Wait until renames and removals in the folder are on disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_for_writing(path: Path) -> bool | None:
    """Whether a process has the file open for writing; None if the kernel cannot tell for this file.

    The kernel grants no read lease (fcntl(2), F_SETLEASE) on a file that is open for writing. The lease is held
    only for a moment; opening the file for writing waits until it is released. Raises OSError for a file that
    cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # The kernel signals a conflicting open. SIGURG is ignored by default; the usual SIGIO ends the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None  # EINVAL: no leases on this file; EACCES: not for us
    finally:
        os.close(fd)
    return False
