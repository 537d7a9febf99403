"""The agent's socket: one agent at a time, open to root alone, and there only while somebody listens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wirespeed.cni.errors import CniError, Code

_BACKLOG = 1024  # connections that the kernel holds while the agent is busy


@contextmanager
def only_agent(path: Path) -> Iterator[None]:
    """Hold the lock of the socket at `path`, a file beside it that the kernel frees when its holder dies.

    The folder is made, mode 0700. Raises CniError: TRY_AGAIN_LATER while another agent holds it, POLICY for
    a folder in which others may replace the socket, IO_FAILURE.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(path.parent.stat().st_mode) & 0o022:
                raise CniError(
                    Code.POLICY, f"socket {path}: expected a folder that only its owner may write, mode 0700"
                )
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
            raise CniError(
                Code.TRY_AGAIN_LATER, f"socket {path}: another agent serves it, process {holder}"
            ) from None
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"socket {path}: {error.strerror}") from error
        yield


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The socket at `path`, mode 0600, not blocking; it takes the place of one that a dead agent left.

    Only the holder of its lock may ask for it. Whoever finds the path can connect, as it is moved there when
    it listens; and it is removed before the socket is closed, at the latest on leaving.
    Raises CniError(IO_FAILURE).
    """
    made = Path(f"{path}~")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as listener:
        try:
            made.unlink(missing_ok=True)
            listener.bind(os.fspath(made))
            made.chmod(0o600)
            listener.listen(_BACKLOG)
            made.rename(path)
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"socket {path}: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
