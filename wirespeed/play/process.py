"""A container's process: started by the launcher, with its output line by line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind
from wirespeed.play.devices import Node
from wirespeed.play.security import Rights

LAUNCHER = Path(__file__).with_name("launcher.py")
_LONGEST_LINE = 1 << 16  # longer lines of output are passed on in parts of this many bytes


class Mount(NamedTuple):
    """A file or directory of this machine, mounted in a container; `options` as in `wirespeed.play.launcher`."""

    source: str
    target: str
    options: Sequence[str] = ()


@structs.prepared
class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A container's process; as JSON, the plan of `wirespeed.play.launcher`."""

    netns: str
    root: str
    hostname: str
    command: Sequence[str]
    environment: Mapping[str, str]
    rights: Rights
    folder: str = "/"
    devices: Sequence[Node] = ()
    mounts: Sequence[Mount] = ()
    groups: Sequence[tuple[str, str]] = ()  # its cgroups' directories, and their mount points in it
    stdin: bool = False  # whether standard input stays open, with nothing to read
    join: int = 0  # the first process of the container in which the command is another one


class Process:
    """The first process of a container.

    `write` is called with each line of output, without its newline, in a separate thread. Raises Error(INTERNAL)
    if the process cannot be started. It is killed when this process ends.
    """

    def __init__(self, plan: Plan, write: Callable[[bytes], None]) -> None:
        self._plan, self._write = plan, write
        self.ended = threading.Event()
        self._control, theirs = socket.socketpair()
        stdin = subprocess.PIPE if plan.stdin else subprocess.DEVNULL
        with theirs:
            self._launcher = _launch(plan, theirs, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()
        with self._control.makefile("rb") as answers:
            answer = json.loads(answers.readline() or b'{"error": "the launcher failed"}')
        if problem := answer.get("error"):
            self.wait()
            raise Error(Kind.INTERNAL, problem)
        self.pid: int = answer["pid"]

    def wait(self) -> int:
        """Wait for the end of the process and of its output; return the exit status. For one thread only."""
        status = self._launcher.wait()
        self._reader.join()
        if self._launcher.stdin:
            self._launcher.stdin.close()
        self.ended.set()
        self._control.close()
        return status

    def signal(self, number: int) -> None:
        """Send the container's first process a signal, if it still runs."""
        with contextlib.suppress(OSError):  # it has ended
            self._control.send(bytes([number]))

    def execute(self, command: Sequence[str], timeout: float) -> int | None:
        """Run another command with the container's rights; return its exit status, None if killed at `timeout`."""
        control, theirs = socket.socketpair()
        with control:
            with theirs:
                nothing = subprocess.DEVNULL
                plan = msgspec.structs.replace(self._plan, join=self.pid, command=command)
                process = _launch(plan, theirs, stdin=nothing, stdout=nothing, stderr=nothing)
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the launcher and its child, in the same process group
                process.wait()
                return None

    def _read(self) -> None:
        assert self._launcher.stdout is not None
        with self._launcher.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                self._write(line.rstrip(b"\r\n"))


def _launch(plan: Plan, control: socket.socket, *, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    """Start the launcher with its plan and its end of the control socket."""
    with open(os.memfd_create("plan"), "wb") as file:
        file.write(json.dumps(msgspec.to_builtins(plan)).encode())
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(file.fileno()), str(control.fileno())],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(file.fileno(), control.fileno()),
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,  # Ctrl-C in the terminal must reach this process only
        )
