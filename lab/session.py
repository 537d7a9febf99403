"""What goes on between host and guest: boot, one command (or a shell), its output and its exit code."""

import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.errors import LabError, tail
from lab.vm import Vm

CHUNK = 65536
BOOT_TIMEOUT = 180.0
# How long a command that did not end in time may take to say what it hangs on.
EXPLAIN_TIMEOUT = 3.0


@dataclass(kw_only=True)
class Session:
    """One job in one VM. `streams` says which host descriptor a port's bytes go to."""

    vm: Vm
    streams: dict[str, int]
    seen: dict[str, int] = field(default_factory=lambda: {"out": 0, "err": 0})
    pending: bytes = b""

    def boot(self) -> float:
        """Waits for the guest's agent; its seconds since power on. LabError if it does not come."""
        for message in self.messages(time.monotonic() + BOOT_TIMEOUT, "boot"):
            if message["event"] == "up":
                return float(message["uptime"])
        raise AssertionError("messages() ends by an error only")

    def send(self, **message: Any) -> None:
        """One message to the agent."""
        port = self.vm.ports["ctl"]
        port.setblocking(True)
        port.sendall(json.dumps(message).encode() + b"\n")
        port.setblocking(False)

    def command(self, *, deadline: float | None) -> int:
        """Passes on output until the command ends; its exit code. `deadline` is on the monotonic clock."""
        for message in self.messages(deadline, "command"):
            if message["event"] == "exit":
                self.drain(message)
                return int(message["code"])
        raise AssertionError("messages() ends by an error only")
