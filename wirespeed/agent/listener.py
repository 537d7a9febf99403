"""The agent's socket: one agent at a time, open to root alone, and there for as long as the agent listens."""

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
from wirespeed.host.inotify import FolderWatch

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that the kernel holds while the agent is busy
_CONTESTED = (1.0, 60.0)  # seconds between two times that the socket is made anew: at least, and at most

_Identity = tuple[int, int] | None  # device and inode; None is no such file


class Lock:
    """The lock of the socket at `path`, a file beside it that the kernel frees when its holder dies.

    The folder is made, mode 0700. Raises CniError: TRY_AGAIN_LATER while another agent holds it, POLICY for
    a folder in which others may replace the socket, IO_FAILURE.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, Path(f"{path}.lock")
        self._fd = self._taken()
        self._filesystem = path.parent.stat().st_dev

    def close(self) -> None:
        os.close(self._fd)

    def keep(self) -> None:
        """Hold it still, also where its file or the folder was removed.

        Raises CniError as when it is made, and TRY_AGAIN_LATER where the folder is not on the filesystem of before:
        an agent in a container does not reach the node's folder then.
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
    """Hold the lock of the socket at `path`. Raises CniError as `Lock`."""
    with contextlib.closing(Lock(path)) as lock:
        yield lock


class Listener:
    """The socket at the lock's path, mode 0600, not blocking; it takes the place of one that a dead agent left.

    Whoever finds the path can connect, as it is moved there when it listens; and it is removed before the socket is
    closed. `watch` is readable when something happened in its folder; None where the kernel gives no notices.
    Raises CniError(IO_FAILURE).
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path, self._lock = path, lock
        self.watch: FolderWatch | None = None
        self._look()
        self.socket, self._identity = self._listening()
        self._pause, self._next = _CONTESTED[0], 0.0
        self._complaint = ""

    def close(self) -> None:
        self.remove()
        self.socket.close()
        if self.watch is not None:
            self.watch.close()

    def remove(self) -> None:
        """Take it from its path, unless something else is there."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)

    def renewed(self) -> socket.socket | None:
        """The socket that was listened on until now, if another one had to be made, for it was not at its path.

        Who has connected to it can still be served. Raises CniError(TRY_AGAIN_LATER) where this agent must end.
        """
        if self.watch is not None:
            self.watch.events()
        try:
            self._lock.keep()
            there = _identity(self.path)
            if there == self._identity or (there is not None and time.monotonic() < self._next):
                return None
            self._look()
            made = self._listening()
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
        """Further and further apart, where another program takes it time and again."""
        now, (least, most) = time.monotonic(), _CONTESTED
        self._pause = min(most, self._pause * 2) if now < self._next + most else least
        self._next = now + self._pause / 2

    def _look(self) -> None:
        """Have notices of what happens in the folder as it is now."""
        if self.watch is not None:
            self.watch.close()
        self.watch = None
        with contextlib.suppress(OSError):
            self.watch = FolderWatch(self.path.parent)

    def _listening(self) -> tuple[socket.socket, _Identity]:
        made = Path(f"{self.path}~")
        with contextlib.ExitStack() as opened:
            try:
                kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                listener = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
                made.unlink(missing_ok=True)
                listener.bind(os.fspath(made))
                made.chmod(0o600)
                listener.listen(_BACKLOG)
                identity = _identity(made)  # before others see it, and may put something else in its place
                if (
                    self.path.is_dir() and not self.path.is_symlink()
                ):  # what a container's mount makes where nothing is
                    self.path.rmdir()
                made.rename(self.path)
            except OSError as error:
                raise CniError(Code.IO_FAILURE, f"socket {self.path}: {error.strerror or error}") from error
            opened.pop_all()
        return listener, identity


@contextmanager
def listening(path: Path, lock: Lock) -> Iterator[Listener]:
    """The socket at `path`, of the holder of its lock. Raises CniError(IO_FAILURE)."""
    with contextlib.closing(Listener(path, lock)) as listener:
        yield listener


def _identity(path: Path) -> _Identity:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
