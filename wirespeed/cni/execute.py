"""Running a plugin's executable: found in CNI_PATH, without a shell, bounded in time and output."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import PluginError
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind

MAX_STDOUT = 1 << 20  # bytes; a result has a few hundred
MAX_STDERR = 1 << 16  # bytes; only the last ones are kept
STDIN_NAME = "cni-config"  # the name of the memfd that is a plugin's standard input
_BUSY_LIMIT = 3.0  # seconds to wait for an executable that is being written


def check_kind(kind: object) -> str:
    """Return the plugin `type` of a configuration if it is a valid file name. Raises Error(INVALID_CONFIG)."""
    if kind is None or kind == "":
        raise Error(Kind.INVALID_CONFIG, key="type", missing=True, expected="the name of a plugin")
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in {".", ".."}:
        raise Error(Kind.INVALID_CONFIG, key="type", expected="the name of a plugin, no path", got=kind)
    return kind


def find_plugin(kind: str, path: Sequence[str]) -> str:
    """Return the first regular, executable file `kind` in the folders of `path`. Raises Error(INVALID_CONFIG)."""
    check_kind(kind)
    not_executable = ""
    for folder in path:
        file = os.path.join(folder, kind)
        try:
            mode = os.stat(file).st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(mode) and os.access(file, os.X_OK):
            return file
        not_executable = not_executable or f"{file} is not an executable file"
    where = f"in {', '.join(path)}" if path else "to be found: CNI_PATH is empty"
    raise Error(Kind.INVALID_CONFIG, f'no executable "{kind}" {where}', hint=not_executable)


def run_plugin(binary: str, request: Request, variables: Mapping[str, str] = {}) -> bytes:
    """Run the executable for the request; return its standard output.

    Its standard input is request.config as JSON. Its environment has only CNI_* (from the request), PATH and
    `variables`: a plugin must not see the agent's own variables (tokens, library paths, a proxy), and behaves the
    same whoever runs it. It runs in its own session, so that at the deadline all its processes are killed; after a
    success, processes that it left running stay.

    Raises Error: the plugin's own error with its code and details; PLUGIN if it failed without one;
    TRY_AGAIN after the deadline. The error does not name the plugin: callers add that.
    """
    # A memfd, written before the plugin starts: unlike a pipe, it never makes us wait for the plugin to read.
    with open(os.memfd_create(STDIN_NAME, os.MFD_CLOEXEC), "w+b") as stdin:
        stdin.write(msgspec.json.encode(request.config))
        stdin.seek(0)
        process = _spawn(binary, request, stdin, variables)
    with process:
        try:
            stdout, stderr = _collect_output(process, request)
        except BaseException:
            _kill(process)
            raise
    if process.returncode == 0:
        return stdout
    raise _failure(process.returncode, stdout, stderr)


def _spawn(
    binary: str, request: Request, stdin: IO[bytes], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    environ = {**request.environ, "PATH": os.environ.get("PATH", os.defpath), **variables}

    def spawn() -> subprocess.Popen[bytes]:
        # Without a preexec_fn, this is a vfork: 0.15 ms instead of 8 ms for a fork in a process of 200 MiB. The
        # default close_fds also closes descriptors that this process inherited; its cost is not measurable.
        return subprocess.Popen(
            [binary],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environ,
            start_new_session=True,
            cwd="/",
        )

    try:
        try:
            return spawn()
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
        # An installer is writing the executable: wait until it has closed the file.
        return _retry_while_busy(binary, spawn, until=min(request.deadline, time.monotonic() + _BUSY_LIMIT))
    except OSError as error:
        if error.errno == errno.ETXTBSY:
            raise Error(Kind.TRY_AGAIN, "another program is writing this file", where=binary) from error
        raise Error(Kind.PLUGIN, f"cannot be run: {error.strerror}", where=binary) from error


def _retry_while_busy(
    file: str, call: Callable[[], subprocess.Popen[bytes]], *, until: float
) -> subprocess.Popen[bytes]:
    """Return `call()`; while it raises OSError(ETXTBSY), retry it each time that a writer closes `file`.

    Raises ETXTBSY if that lasts until `until` (time.monotonic()), and any other error at once.
    """
    from wirespeed.system import inotify  # noqa: PLC0415 — ctypes, for this rare case alone

    mask = inotify.IN_CLOSE_WRITE | inotify.IN_MOVE_SELF | inotify.IN_DELETE_SELF
    with contextlib.closing(inotify.Watch(file, mask)) as watch:
        while True:
            try:
                return call()
            except OSError as error:
                left = until - time.monotonic()
                if error.errno != errno.ETXTBSY or left <= 0:
                    raise
            watch.wait(left)
            watch.events()


def _collect_output(process: subprocess.Popen[bytes], request: Request) -> tuple[bytes, bytes]:
    """Read until the process ends; return its standard output and the end of its standard error."""
    stdout, stderr = bytearray(), bytearray()
    assert process.stdout is not None
    assert process.stderr is not None
    buffers = {process.stdout.fileno(): stdout, process.stderr.fileno(): stderr}
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        for fd in buffers:
            os.set_blocking(fd, False)
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(_milliseconds(request.deadline))}
            if not ready:
                raise Error(Kind.TRY_AGAIN, f"{request.command} took longer than its deadline and was killed")
            # When the process has ended, all its output is in the pipes. Children may hold them open: no EOF then.
            last = ended in ready
            for fd, buffer in buffers.items():
                if (last or fd in ready) and _read(fd, buffer) and not last:
                    poll.unregister(fd)
            if len(stdout) > MAX_STDOUT:
                raise Error(Kind.PLUGIN, f"it printed more than {MAX_STDOUT} bytes and was killed")
            del stderr[:-MAX_STDERR]
            if last:
                return bytes(stdout), bytes(stderr)
    finally:
        os.close(ended)


def _read(fd: int, into: bytearray) -> bool:
    """Read what is in the pipe; return whether its end was reached."""
    taken = 0
    while taken <= MAX_STDOUT:
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not chunk:
            return True
        into += chunk
        taken += len(chunk)
    return False


def _milliseconds(deadline: float) -> int | None:
    return None if deadline == math.inf else max(0, math.ceil((deadline - time.monotonic()) * 1000))


def _kill(process: subprocess.Popen[bytes]) -> None:
    # It has not been waited for, so neither its PID nor its process group can have been reused.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(status: int, stdout: bytes, stderr: bytes) -> Error:
    """Return the error of a plugin that ended with `status` (negative: the signal that killed it)."""
    own = _printed_error(stdout)
    if own is not None:
        return own
    how = f"exit status {status}" if status > 0 else f"killed by {_signal_name(-status)}"
    text = _last_line(stderr) or _last_line(stdout)
    return Error(Kind.PLUGIN, f"{how}: {text or 'it printed no message'}")


def _last_line(output: bytes) -> str:
    return output.strip().rpartition(b"\n")[2][-400:].decode(errors="replace").strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@structs.prepared
class _ErrorObject(msgspec.Struct):
    code: int
    msg: str
    details: str = ""


def _printed_error(stdout: bytes) -> Error | None:
    """Return the specification's error object if the plugin printed one, else None."""
    try:
        error = msgspec.json.decode(stdout, type=_ErrorObject)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return PluginError(error.code, error.msg, error.details) if error.code > 0 else None
