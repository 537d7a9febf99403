"""Call an agent through the shim, and follow the calls of the probe plugin (tests/node/probe.py)."""

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
    """The shim's exit status and its standard output as JSON ({} if empty)."""

    status: int
    body: dict[str, Any]


DONE = Answer(0, {})


class Call:
    """A running shim, called as `name`, with `stdin` (a configuration, or raw bytes)."""

    def __init__(
        self,
        shim: Path,
        environ: Mapping[str, str],
        stdin: Mapping[str, Any] | bytes = b"",
        *,
        name: str = "probe",
        before: tuple[str, ...] = (),
    ) -> None:
        # A link, because a program that runs the shim (`before`, such as setpriv) cannot set argv[0].
        link = shim.parent / name
        if not link.exists():
            link.symlink_to(shim)
        self.process = subprocess.Popen(
            [*before, str(link)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin is not None
        with self.process.stdin as pipe:
            pipe.write(stdin if isinstance(stdin, bytes) else json.dumps(dict(stdin)).encode())
        self.process.stdin = None  # otherwise communicate() would use it

    def answer(self) -> Answer:
        """Wait until it ends."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        assert stderr == b""
        return Answer(self.process.returncode, json.loads(stdout) if stdout else {})


class Events:
    """The events sent by an agent's probes, in order."""

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
        """The next event, as "begin ADD c1"."""
        event = self.next_full()
        return f"{event['what']} {event['verb']} {event['container']}".rstrip()


class Gate:
    """A fifo at which a probe waits until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Let the waiting probe, or the next one, continue."""
        os.close(os.open(self.path, os.O_WRONLY))


def is_soon(once: Callable[[], float], limit: float) -> bool:
    """Whether `once`, which returns a time in seconds, is below the limit in one of three attempts.

    Other load on the machine only makes times longer, so the shortest one characterizes the code.
    """
    return any(once() < limit for _ in range(3))


def open_files(process: int) -> list[tuple[int, str]]:
    """The file descriptors of a process with their targets, without those closed meanwhile."""
    folder, found = Path(f"/proc/{process}/fd"), []
    for fd in os.listdir(folder):
        with suppress(FileNotFoundError):
            found.append((int(fd), os.readlink(folder / fd)))
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll for a state of another process for which there is no notification."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never {what}"
        os.sched_yield()
