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
from collections.abc import Sequence

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import Request

MAX_STDOUT = 1 << 20  # bytes; a result has a few hundred
MAX_STDERR = 1 << 16  # bytes; only the last ones are kept
STDIN_NAME = "cni-config"  # the name of the memfd that is a plugin's standard input
_BUSY_LIMIT = 3.0  # seconds to wait for an executable that is being written


def check_kind(kind: object) -> str:
    """Return the plugin `type` of a configuration if it is a valid file name. Raises CniError(INVALID_CONFIG)."""
    if kind is None or kind == "":
        raise CniError(Code.INVALID_CONFIG, 'key "type" is missing: expected the name of a plugin')
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in {".", ".."}:
        raise CniError(Code.INVALID_CONFIG, f'key "type": expected the name of a plugin, no path, got {kind!r}')
    return kind


def find_plugin(kind: str, path: Sequence[str]) -> str:
    """Return the executable of the plugin `kind`: the first regular, executable file in the folders of `path`.

    Raises CniError(INVALID_CONFIG) that names the folders, and a file that is not executable.
    """
    check_kind(kind)
    unfit = ""
    for folder in path:
        file = os.path.join(folder, kind)
        try:
            mode = os.stat(file).st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(mode) and os.access(file, os.X_OK):
            return file
        unfit = unfit or f"; {file} is not an executable file"
    where = f"in {', '.join(path)}" if path else "to be found: CNI_PATH is empty"
    raise CniError(Code.INVALID_CONFIG, f'no executable "{kind}" {where}{unfit}')


def run_plugin(binary: str, request: Request) -> bytes:
    """Run the executable for the request; return its standard output.

    Its standard input is request.config as JSON. Its environment has only CNI_* (from the request) and PATH: a
    plugin must not see the agent's own variables (tokens, library paths, a proxy), and behaves the same whoever
    runs it. It runs in a session of its own, so that at the deadline all its processes are killed; after a
    success, processes that it left running stay.

    Raises CniError: the plugin's own error with its code and details; PLUGIN if it failed without one;
    TRY_AGAIN_LATER after the deadline. The message does not name the plugin: callers prefix its name.
    """
    process, out, err = _start(binary, request)
    try:
        stdout, stderr = _converse(process, out, err, request)
    except BaseException:
        _kill(process)
        raise
    finally:
        os.close(out)
        os.close(err)
    status = process.wait()
    if status == 0:
        return stdout
    raise _failure(status, stdout, stderr)


def _start(binary: str, request: Request) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start the process; return it and our non-blocking ends of its standard output and error."""
    with contextlib.ExitStack() as opened:
        # A memfd, written before the plugin starts: unlike a pipe, it never makes us wait for the plugin to read.
        stdin = os.memfd_create(STDIN_NAME, os.MFD_CLOEXEC)
        opened.callback(os.close, stdin)
        with open(stdin, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(request.config))
        os.lseek(stdin, 0, os.SEEK_SET)
        ends = []
        for _ in range(2):
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, theirs)
            ends.append((ours, theirs))
        try:
            process = _spawn(binary, request, stdin=stdin, stdout=ends[0][1], stderr=ends[1][1])
        except BaseException:
            for ours, _ in ends:
                os.close(ours)
            raise
        for ours, _ in ends:
            os.set_blocking(ours, False)
        return process, ends[0][0], ends[1][0]


def _spawn(binary: str, request: Request, *, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    environ = request.environ | {"PATH": os.environ.get("PATH", os.defpath)}

    def spawn() -> subprocess.Popen[bytes]:
        # Without a preexec_fn, this is a vfork: 0.15 ms instead of 8 ms for a fork in a process of 200 MiB. The
        # default close_fds also closes descriptors that this process inherited; its cost is not measurable.
        return subprocess.Popen(
            [binary],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
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
        from wirespeed.cni.writers import once_written  # noqa: PLC0415 — ctypes, for this rare case alone

        return once_written(binary, spawn, until=min(request.deadline, time.monotonic() + _BUSY_LIMIT))
    except OSError as error:
        if error.errno == errno.ETXTBSY:
            raise CniError(Code.TRY_AGAIN_LATER, f"{binary} is being written") from error
        raise CniError(Code.PLUGIN, f"{binary} cannot be run: {error.strerror}") from error


def _converse(process: subprocess.Popen[bytes], out: int, err: int, request: Request) -> tuple[bytes, bytes]:
    """Read until the process ends; return its standard output and the end of its standard error."""
    stdout, stderr = bytearray(), bytearray()
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        for fd in (out, err, ended):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(_milliseconds(request.deadline))}
            if not ready:
                raise CniError(
                    Code.TRY_AGAIN_LATER, f"{request.command} took longer than its deadline and was killed"
                )
            # When the process has ended, all its output is in the pipes. Children may hold them open: no EOF then.
            last = ended in ready
            for fd, said in ((out, stdout), (err, stderr)):
                if (last or fd in ready) and _read(fd, said) and not last:
                    poll.unregister(fd)
            if len(stdout) > MAX_STDOUT:
                raise CniError(Code.PLUGIN, f"printed more than {MAX_STDOUT} bytes and was killed")
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


def _failure(status: int, stdout: bytes, stderr: bytes) -> CniError:
    """Return the error of a plugin that ended with `status` (negative: the signal that killed it)."""
    own = _own_error(stdout)
    if own is not None:
        return own
    how = f"exit status {status}" if status > 0 else f"killed by {_signal_name(-status)}"
    said = _last_line(stderr) or _last_line(stdout)
    return CniError(Code.PLUGIN, f"{how}: {said}" if said else f"{how}, and it says nothing")


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


def _own_error(stdout: bytes) -> CniError | None:
    """Return the specification's error object if the plugin printed one, else None."""
    try:
        error = msgspec.json.decode(stdout, type=_ErrorObject)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return CniError(error.code, error.msg, error.details) if error.code > 0 else None
