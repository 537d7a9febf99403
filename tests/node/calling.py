"""Calling an agent through the shim, and following the probe plugin (tests/node/probe.py) through its calls."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.node.conftest import PATIENCE

PROBE_CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "probe", "cni.dev/valid-attachments": []}


class Answer(NamedTuple):
    """What the shim ended with; `body` is its standard output as JSON, {} for none."""

    status: int
    body: dict[str, Any]


DONE = Answer(0, {})


class Call:
    """A shim that runs, called as `name`, with `stdin` (a configuration, or raw bytes)."""

    def __init__(
        self,
        shim: Path,
        environ: Mapping[str, str],
        stdin: Mapping[str, Any] | bytes = b"",
        *,
        name: str = "probe",
        before: tuple[str, ...] = (),
    ) -> None:
        # A link lets a program that comes `before` the shim (setpriv) call it by the name.
        link = shim.parent / name
        if not link.exists():
            link.symlink_to(shim)
        self.process = subprocess.Popen(
            [*before, str(link)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin is not None
        with self.process.stdin as pipe:
            pipe.write(stdin if isinstance(stdin, bytes) else json.dumps(dict(stdin)).encode())
        self.process.stdin = None  # communicate() would use it

    def answer(self) -> Answer:
        """Wait for its end."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        assert stderr == b""
        return Answer(self.process.returncode, json.loads(stdout) if stdout else {})


class Events:
    """What the probes of an agent tell, in order."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next_full(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self._socket.recv(4096))
        return event

    def next(self) -> str:
        """The next one as "begin ADD c1"."""
        event = self.next_full()
        return f"{event['what']} {event['verb']} {event['container']}".rstrip()


class Gate:
    """A fifo that a probe waits at until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Let the probe pass that waits, or that comes."""
        os.close(os.open(self.path, os.O_WRONLY))


def is_soon(once: Callable[[], float], limit: float) -> bool:
    """Whether what takes so many seconds is done within the limit once in three times.

    What else the machine does only adds to a time, so the least one tells of the code.
    """
    return any(once() < limit for _ in range(3))


def open_files(process: int) -> list[tuple[int, str]]:
    """The descriptors of a process, each with what it is; one that is closed meanwhile is left out."""
    folder, found = Path(f"/proc/{process}/fd"), []
    for fd in os.listdir(folder):
        with suppress(FileNotFoundError):
            found.append((int(fd), os.readlink(folder / fd)))
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state of another process that nothing tells of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never {what}"
        os.sched_yield()
