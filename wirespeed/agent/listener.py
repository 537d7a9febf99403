"""The agent's socket: for one agent at a time, accessible to root only, and kept at its path while it listens."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.system.inotify import FolderWatch

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that the kernel holds while the agent is busy
_CONTESTED = (1.0, 60.0)  # seconds between recreations of the socket, if another program replaces it: min and max

_Identity = tuple[int, int] | None  # device and inode; None: no such file


class Lock:
    """The lock of the socket at `path`: a file next to it, which the kernel unlocks if its holder dies.

    Creates the folder, mode 0700. Raises CniError: TRY_AGAIN_LATER while another agent holds the lock, POLICY for
    a folder in which other users can replace the socket, IO_FAILURE.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, Path(f"{path}.lock")
        self._fd = self._taken()
        self._filesystem = path.parent.stat().st_dev

    def close(self) -> None:
        os.close(self._fd)

    def keep(self) -> None:
        """Make sure that the lock is held, even if its file or the folder was removed.

        Raises the constructor's errors, and TRY_AGAIN_LATER if the folder is now on another filesystem: an agent in
        a container then no longer reaches the node's folder.
        """
        with contextlib.suppress(OSError):
            held = os.fstat(self._fd)
            if _identity(self._file) == (held.st_dev, held.st_ino):
                return
        new = self._taken()
        os.close(self._fd)
        self._fd = new
        if self._path.parent.stat().st_dev != self._filesystem:
            raise CniError(
                Code.TRY_AGAIN_LATER, f"socket {self._path}: its folder is not on the filesystem where it was"
            )

    def _taken(self) -> int:
        with contextlib.ExitStack() as opened:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if stat.S_IMODE(self._path.parent.stat().st_mode) & 0o022:
                    raise CniError(
                        Code.POLICY,
                        f"socket {self._path}: expected a folder that only its owner may write, mode 0700",
                    )
                lock = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                opened.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.truncate(lock, 0)
                os.pwrite(lock, str(os.getpid()).encode(), 0)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
                raise CniError(
                    Code.TRY_AGAIN_LATER, f"socket {self._path}: another agent serves it, process {holder}"
                ) from None
            except OSError as error:
                raise CniError(Code.IO_FAILURE, f"socket {self._path}: {error.strerror}") from error
            opened.pop_all()
        return lock


@contextmanager
def only_agent(path: Path) -> Iterator[Lock]:
    """Hold the lock of the socket at `path`. Raises the errors of `Lock`."""
    with contextlib.closing(Lock(path)) as lock:
        yield lock


class Listener:
    """The non-blocking socket at `path`, mode 0600; it replaces one that a dead agent left.

    A client that finds the path can always connect: the socket is moved there only once it listens, and removed
    from there before it is closed. `watch` is readable after a change in its folder, None if inotify fails.
    Raises CniError(IO_FAILURE).
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path, self._lock = path, lock
        self.watch: FolderWatch | None = None
        self._watch_folder()
        self.socket, self._identity = self._listening(replace=True)
        self._pause, self._next = _CONTESTED[0], 0.0
        self._complaint = ""

    def close(self) -> None:
        self.remove()
        self.socket.close()
        if self.watch is not None:
            self.watch.close()

    def remove(self) -> None:
        """Remove the socket from its path, unless something else is there."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)

    def renewed(self) -> socket.socket | None:
        """Create a new socket if ours is no longer at its path; return the old one then, else None.

        Clients that have connected to the old one can still be served. Raises CniError(TRY_AGAIN_LATER) if this
        agent must end.
        """
        if self.watch is not None:
            self.watch.events()
        try:
            self._lock.keep()
            there = _identity(self.path)
            if there == self._identity or (there is not None and time.monotonic() < self._next):
                return None
            self._watch_folder()
            made = self._listening(replace=there is not None)
        except FileExistsError:
            return self.renewed()
        except CniError as error:
            if error.code == Code.TRY_AGAIN_LATER:
                raise
            if error.msg != self._complaint:
                log.error("%s; nobody can call the agent; trying on", error.msg)  # noqa: TRY400 — a refusal
            self._complaint = error.msg
            return None
        old, (self.socket, self._identity) = self.socket, made
        log.warning("socket %s was removed or replaced by another program: it is made anew", self.path)
        self._complaint = ""
        if there is not None:
            self._contested()
        return old

    def _contested(self) -> None:
        """Delay the next recreation, longer each time that another program replaces the socket in a row."""
        now, (least, most) = time.monotonic(), _CONTESTED
        self._pause = min(most, self._pause * 2) if now < self._next + most else least
        self._next = now + self._pause / 2

    def _watch_folder(self) -> None:
        """Watch the folder that is at the path now."""
        if self.watch is not None:
            self.watch.close()
        self.watch = None
        with contextlib.suppress(OSError):
            self.watch = FolderWatch(self.path.parent)

    def _listening(self, *, replace: bool) -> tuple[socket.socket, _Identity]:
        """Raises FileExistsError without `replace`, if another program has made a file there meanwhile."""
        made = Path(f"{self.path}~")
        with contextlib.ExitStack() as opened:
            try:
                kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                listener = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
                made.unlink(missing_ok=True)
                listener.bind(os.fspath(made))
                made.chmod(0o600)
                listener.listen(_BACKLOG)
                identity = _identity(made)  # before the rename: afterwards others may replace it
                if replace:
                    # A runtime that mounts a missing path into a container creates a folder there.
                    if self.path.is_dir() and not self.path.is_symlink():
                        self.path.rmdir()
                    made.rename(self.path)
                else:
                    try:
                        os.link(made, self.path)
                    finally:
                        made.unlink()
            except FileExistsError:
                raise
            except OSError as error:
                raise CniError(Code.IO_FAILURE, f"socket {self.path}: {error.strerror or error}") from error
            opened.pop_all()
        return listener, identity


@contextmanager
def listening(path: Path, lock: Lock) -> Iterator[Listener]:
    """Listen on the socket at `path`, whose lock is held. Raises CniError(IO_FAILURE)."""
    with contextlib.closing(Listener(path, lock)) as listener:
        yield listener


def _identity(path: Path) -> _Identity:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
