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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wirespeed.cni.errors import CniError, Code
from wirespeed.play.devices import Node
from wirespeed.play.security import Rights

LAUNCHER = Path(__file__).with_name("launcher.py")
_LONGEST_LINE = 1 << 16  # longer lines of output are passed on in parts of this many bytes


class Mount(NamedTuple):
    """A file or directory of this machine, mounted in a container; `options` as in `wirespeed.play.launcher`."""

    source: str
    target: str
    options: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A container's process; see the plan in `wirespeed.play.launcher`."""

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

    def to_json(self) -> bytes:
        parts = {
            "netns": self.netns,
            "root": self.root,
            "hostname": self.hostname,
            "command": list(self.command),
            "environment": dict(self.environment),
            "folder": self.folder,
            "devices": self.devices,
            "mounts": self.mounts,
            "groups": self.groups,
            "rights": self.rights.to_json(),
        }
        return json.dumps(parts).encode()

    def beside(self, pid: int, command: Sequence[str]) -> bytes:
        """Return the launcher's plan for another command in the container whose first process is `pid`."""
        parts = {
            "join": pid,
            "command": list(command),
            "environment": dict(self.environment),
            "folder": self.folder,
            "groups": self.groups,
            "rights": self.rights.to_json(),
        }
        return json.dumps(parts).encode()


class Process:
    """The first process of a container.

    `write` is called with each line of output, without its newline, in a separate thread. Raises CniError(INTERNAL)
    if the process cannot be started. It is killed when this process ends.
    """

    def __init__(self, plan: Plan, write: Callable[[bytes], None]) -> None:
        self._plan, self._write = plan, write
        self.ended = threading.Event()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._launcher = _launch(
                plan.to_json(),
                theirs,
                stdin=subprocess.PIPE if plan.stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()
        with self._control.makefile("rb") as said:
            answer = json.loads(said.readline() or b'{"error": "the launcher failed"}')
        if problem := answer.get("error"):
            self.wait()
            raise CniError(Code.INTERNAL, problem)
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
        """Run another command in the container, with the container's rights.

        Returns the exit status, or None if it was killed after `timeout` seconds.
        """
        control, theirs = socket.socketpair()
        with control:
            with theirs:
                nothing = subprocess.DEVNULL
                plan = self._plan.beside(self.pid, command)
                process = _launch(plan, theirs, stdin=nothing, stdout=nothing, stderr=nothing)
            return _end_of(process, timeout)

    def _read(self) -> None:
        assert self._launcher.stdout is not None
        with self._launcher.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                self._write(line.rstrip(b"\r\n"))


def _launch(
    plan: bytes, control: socket.socket, *, stdin: int, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    """Start the launcher with its plan and its end of the control socket."""
    with _memory(plan) as file:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(file), str(control.fileno())],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(file, control.fileno()),
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,  # Ctrl-C in the terminal must reach this process only
        )


def _end_of(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher and its child, which is in the process group too
        process.wait()
        return None


@contextlib.contextmanager
def _memory(content: bytes) -> Iterator[int]:
    file = os.memfd_create("plan", os.MFD_CLOEXEC)
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)
