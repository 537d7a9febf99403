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
MAX_STDERR = 1 << 16  # bytes of it that are kept, the last ones
STDIN_NAME = "cni-config"  # of the memory file that is a plugin's standard input
_BUSY_LIMIT = 3.0  # seconds to wait for an executable that is being written


def check_kind(kind: object) -> str:
    """The plugin `type` of a configuration, if it can be a file's name. Raises CniError(INVALID_CONFIG)."""
    if kind is None or kind == "":
        raise CniError(Code.INVALID_CONFIG, 'key "type" is missing: expected the name of a plugin')
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in {".", ".."}:
        raise CniError(Code.INVALID_CONFIG, f'key "type": expected the name of a plugin, no path, got {kind!r}')
    return kind


def find_plugin(kind: str, path: Sequence[str]) -> str:
    """The executable of the plugin `kind`: the first in the folders of `path` that is a regular file to run.

    Raises CniError(INVALID_CONFIG) that names the folders, or the file that cannot be run.
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
    """Run the executable for the request; its standard output.

    It gets request.config as JSON on standard input, and of the environment only CNI_* (from the request) and
    PATH: an agent's own variables (tokens, library paths, a proxy) are no plugin's business, and a plugin
    behaves alike whoever runs it. It runs in a session of its own, so that the deadline ends all that it
    started; what a plugin that succeeded leaves running stays.

    Raises CniError: the plugin's own error with its code and details; PLUGIN where it failed without one;
    TRY_AGAIN_LATER after the deadline. The message does not name the plugin, its callers lead it by that.
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
    """The process, and the ends of its standard output and error, which do not block."""
    with contextlib.ExitStack() as opened:
        # The configuration lies in memory before the plugin starts: it reads at its leisure, nobody waits.
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
        # Without a preexec_fn this is a vfork: 0.15 ms, where a fork takes 8 ms in a process of 200 MiB. What
        # this process itself inherited is closed too (close_fds), in no time that could be measured.
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
        # An installer writes the executable right now: the kernel tells when it is done.
        from wirespeed.cni.writers import once_written  # noqa: PLC0415 — ctypes, for this rare case alone

        return once_written(binary, spawn, until=min(request.deadline, time.monotonic() + _BUSY_LIMIT))
    except OSError as error:
        if error.errno == errno.ETXTBSY:
            raise CniError(Code.TRY_AGAIN_LATER, f"{binary} is being written") from error
        raise CniError(Code.PLUGIN, f"{binary} cannot be run: {error.strerror}") from error


def _converse(process: subprocess.Popen[bytes], out: int, err: int, request: Request) -> tuple[bytes, bytes]:
    """Read until the process ends; (standard output, the end of standard error)."""
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
            # What the process wrote is in the pipes when it has ended. Who else holds them is not waited for.
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
    """Take what is in the pipe; whether its end is reached."""
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
    # Not yet waited for, so its id, and the group of that number, are still its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(status: int, stdout: bytes, stderr: bytes) -> CniError:
    """The error of a plugin that ended with `status` (negative: the signal that ended it)."""
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
    """The error object of the specification, if the plugin printed one."""
    try:
        error = msgspec.json.decode(stdout, type=_ErrorObject)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return CniError(error.code, error.msg, error.details) if error.code > 0 else None
