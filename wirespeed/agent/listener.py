"""The agent's socket: for one agent at a time, accessible to root only, and kept at its path while it listens."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
import time
from pathlib import Path

from wirespeed.errors import Error, Kind, as_error
from wirespeed.system.inotify import FolderWatch

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that the kernel holds while the agent is busy
_RECREATE_PAUSES = (1.0, 60.0)  # seconds until the socket is recreated again, if another program replaces it

_Identity = tuple[int, int] | None  # device and inode; None: no such file


class Lock:
    """The lock of the socket at `path`: a file next to it, which the kernel unlocks if its holder dies.

    Creates the folder, mode 0700. Raises Error: TRY_AGAIN while another agent holds the lock, POLICY for a folder
    in which other users can replace the socket, IO.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, Path(f"{path}.lock")
        self._where = f"socket {path}"
        self._fd = self._acquire()
        self._filesystem = path.parent.stat().st_dev

    def close(self) -> None:
        os.close(self._fd)

    def ensure_held(self) -> None:
        """Make sure that the lock is held, even if its file or the folder was removed.

        Raises the constructor's errors, and Error(TRY_AGAIN) if the folder is now on another filesystem: an agent
        in a container then no longer reaches the node's folder.
        """
        with contextlib.suppress(OSError):
            held = os.fstat(self._fd)
            if _identity(self._file) == (held.st_dev, held.st_ino):
                return
        new = self._acquire()
        os.close(self._fd)
        self._fd = new
        if self._path.parent.stat().st_dev != self._filesystem:
            raise Error(Kind.TRY_AGAIN, "its folder is now on another filesystem", where=self._where)

    def _acquire(self) -> int:
        with contextlib.ExitStack() as opened:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if stat.S_IMODE(self._path.parent.stat().st_mode) & 0o022:
                    expected = "a folder that only its owner may write, mode 0700"
                    raise Error(Kind.POLICY, where=self._where, expected=expected)
                lock = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                opened.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.truncate(lock, 0)
                os.pwrite(lock, str(os.getpid()).encode(), 0)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
                text = f"another agent serves it, process {holder}"
                raise Error(Kind.TRY_AGAIN, text, where=self._where) from None
            except OSError as error:
                raise as_error(error, self._where) from error
            opened.pop_all()
        return lock


class Listener:
    """The non-blocking socket at `path`, mode 0600; it replaces one that a dead agent left.

    A client that finds the path can always connect: the socket is moved there only once it listens, and removed
    from there before it is closed. `watch` is readable after a change in its folder, None if inotify fails.
    Raises Error(IO).
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path, self._lock = path, lock
        self.watch: FolderWatch | None = None
        self._watch_folder()
        self.socket, self._identity = self._listen(replace=True)
        self._pause, self._next = _RECREATE_PAUSES[0], 0.0
        self._last_problem = ""

    def close(self) -> None:
        self.remove()
        self.socket.close()
        if self.watch is not None:
            self.watch.close()

    def remove(self) -> None:
        """Remove the socket from its path, unless something else is there."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)

    def recreate_if_replaced(self) -> socket.socket | None:
        """Create a new socket if ours is no longer at its path; return the old one then, else None.

        Clients that have connected to the old one can still be served. Raises Error(TRY_AGAIN) if this
        agent must end.
        """
        if self.watch is not None:
            self.watch.events()
        try:
            self._lock.ensure_held()
            current = _identity(self.path)
            if current == self._identity or (current is not None and time.monotonic() < self._next):
                return None
            self._watch_folder()
            made = self._listen(replace=current is not None)
        except FileExistsError:
            return self.recreate_if_replaced()
        except Error as error:
            if error.kind == Kind.TRY_AGAIN:
                raise
            if error.msg != self._last_problem:
                log.error("%s; the agent cannot be called, and tries again", error.msg)  # noqa: TRY400 — a refusal
            self._last_problem = error.msg
            return None
        old, (self.socket, self._identity) = self.socket, made
        log.warning("socket %s was removed or replaced by another program: recreated", self.path)
        self._last_problem = ""
        if current is not None:
            self._delay_next()
        return old

    def _delay_next(self) -> None:
        """Delay the next recreation, longer each time that another program replaces the socket in a row."""
        now, (least, most) = time.monotonic(), _RECREATE_PAUSES
        self._pause = min(most, self._pause * 2) if now < self._next + most else least
        self._next = now + self._pause / 2

    def _watch_folder(self) -> None:
        if self.watch is not None:
            self.watch.close()
        self.watch = None
        with contextlib.suppress(OSError):
            self.watch = FolderWatch(self.path.parent)

    def _listen(self, *, replace: bool) -> tuple[socket.socket, _Identity]:
        """Create the socket at its path. Raises FileExistsError without `replace` if there is a file by now."""
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
                raise as_error(error, f"socket {self.path}") from error
            opened.pop_all()
        return listener, identity


def _identity(path: Path) -> _Identity:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
