"""The dialogue between host and guest: boot, one command or a shell, its output and its exit code."""

import json
import os
import selectors
import time
from typing import Any

from lab.errors import LabError, tail
from lab.vm import Vm

CHUNK = 65536
BOOT_TIMEOUT = 180.0
# Seconds for the answer to `explain` after a command has timed out.
EXPLAIN_TIMEOUT = 3.0
LEAVE = b"\x1d"  # Ctrl-]


class LeftError(Exception):
    """The user of the shell pressed Ctrl-]."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all data, even if the reader is slow."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Session:
    """One job in one VM. `streams` maps the guest's ports out and err to file descriptors on the host."""

    def __init__(self, vm: Vm, streams: dict[str, int]) -> None:
        self._vm = vm
        self._streams = streams
        self._passed = dict.fromkeys(streams, 0)
        self._pending = b""
        self._messages: list[dict[str, Any]] = []
        self._selector = selectors.DefaultSelector()
        for name, port in vm.ports.items():
            self._selector.register(port, selectors.EVENT_READ, name)

    def boot(self) -> None:
        """Wait for the guest's agent."""
        try:
            self._await("up", time.monotonic() + BOOT_TIMEOUT)
        except TimeoutError:
            raise LabError(f"the VM did not boot in {BOOT_TIMEOUT:.0f} s", detail=self._log()) from None

    def run(self, job: dict[str, Any], timeout: float | None) -> int:
        """Run the command, forward its output, return its exit code. Raises LabError on timeout or VM failure."""
        self.send(**job)
        try:
            return self._finish(None if timeout is None else time.monotonic() + timeout)
        except TimeoutError:
            hint = self.explain()
            raise LabError(f"the command did not end in {timeout:g} s; the VM was killed", detail=hint) from None

    def keep(self, job: dict[str, Any]) -> int:
        """Run the command, again after each reset of the VM; return its exit code if it ends."""
        self.send(**job)
        while True:
            while not self._messages:
                self._step(None)
            message = self._messages.pop(0)
            if message["event"] == "up":
                self.send(**job)
            elif message["event"] == "exit":
                return int(message["code"])

    def shell(self, job: dict[str, Any], terminal: int) -> int | None:
        """Run the job's shell on `terminal` (in raw mode); return its exit code, None after Ctrl-]."""
        self.send(**job)
        self._selector.register(terminal, selectors.EVENT_READ, "terminal")
        try:
            return self._finish(None)
        except LeftError:
            return None

    def send(self, **message: Any) -> None:
        self._vm.ports["ctl"].sendall(json.dumps(message).encode() + b"\n")

    def explain(self) -> str:
        """Return what the guest's processes are waiting for; "" if the agent does not answer in time."""
        self.send(do="explain")
        try:
            return str(self._await("explained", time.monotonic() + EXPLAIN_TIMEOUT)["text"])
        except TimeoutError:
            return ""

    def _finish(self, deadline: float | None) -> int:
        """Wait for the exit code, then for all output that the agent has reported as sent."""
        ended = self._await("exit", deadline)
        wanted = {"out": ended["output"], "err": ended["errors"]}
        while self._passed != wanted:
            self._step(None)
        return int(ended["code"])

    def _await(self, event: str, deadline: float | None) -> dict[str, Any]:
        """Return the next message of this kind. Raises TimeoutError."""
        while True:
            for message in self._messages:
                if message["event"] == event:
                    self._messages.remove(message)
                    return message
            self._step(deadline)

    def _step(self, deadline: float | None) -> None:
        """Wait for input and process it. Raises TimeoutError after `deadline`."""
        wait = None if deadline is None else deadline - time.monotonic()
        if wait is not None and wait <= 0:
            raise TimeoutError
        for key, _ in self._selector.select(wait):
            if key.data == "terminal":
                self._type(os.read(key.fd, CHUNK))
                continue
            data = self._read(key.data)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.data == "ctl":
                *lines, self._pending = (self._pending + data).split(b"\n")
                self._messages += [json.loads(line) for line in lines]
            else:
                write_all(self._streams[key.data], data)
                self._passed[key.data] += len(data)

    def _read(self, name: str) -> bytes:
        try:
            data = self._vm.ports[name].recv(CHUNK)
        except ConnectionResetError:
            data = b""
        if not data and name == "ctl":
            self._vm.process.wait()
            raise LabError(f"the VM went down (QEMU ended with {self._vm.process.returncode})", detail=self._log())
        return data

    def _type(self, keys: bytes) -> None:
        before, leave, _ = keys.partition(LEAVE)
        self._vm.ports["out"].sendall(before)
        if leave or not keys:
            raise LeftError

    def _log(self) -> str:
        return tail(self._vm.log(), 40)
