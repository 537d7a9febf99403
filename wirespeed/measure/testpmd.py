"""testpmd in a pod that was made for a measurement, driven at its prompt.

Its standard input and output are two FIFOs in a folder that the pod and this process both see. The end of its
output is the end of the program.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from wirespeed.errors import Error, Kind, Thing
from wirespeed.measure.forwarder import Forwarded

PROGRAM = "testpmd, mac forwarding"
MOUNTED = "/run/measure"  # where the container sees the folder
LARGEST = 1518  # bytes with FCS: testpmd's own limit without further options

_COMMANDS, _OUTPUT = "commands", "output"
_PROMPT = "testpmd> "
_PATIENCE = 120.0  # seconds for an answer: the first one includes the start of DPDK
_LINK = 60.0  # seconds for a switch to connect to a port
_KEPT = 12  # lines of its output that an error quotes
_SUMMARY = re.compile(r"^(\d+)\s+([0-9A-Fa-f:]{17})\s+(\S+)\s+(\S+)\s+(up|down)\b", re.MULTILINE)
_COUNTER = re.compile(r"(RX-packets|RX-dropped|TX-packets|TX-dropped): (\d+)")

# The output is opened by both sides before anything else, so this process sees all of it, and its end.
SCRIPT = f"""\
exec <>{MOUNTED}/{_COMMANDS} >{MOUNTED}/{_OUTPUT} 2>&1
eal=$(wirespeed eal --cores 2) || exit 1
exec stdbuf -oL dpdk-testpmd $eal -- --interactive --forward-mode=mac --total-num-mbufs=4096 --no-flush-rx
"""


class Port(NamedTuple):
    """A port as testpmd lists it."""

    number: int
    mac: str
    device: str  # a PCI address, or the name of a virtual device
    driver: str
    is_up: bool


def make_folder(folder: Path) -> None:
    """Create the FIFOs, before the pod is made."""
    folder.mkdir()
    for name in (_COMMANDS, _OUTPUT):
        os.mkfifo(folder / name)


class Testpmd:
    """A running testpmd; see `connected`. Each method raises Error(UNAVAILABLE) if it has ended or hangs."""

    __test__ = False  # pytest: not a test class

    def __init__(self, commands: int, output: int, where: Thing) -> None:
        self._commands, self._output, self._where = commands, output, where
        self._said = ""
        self._to_prompt()

    def ports(self) -> list[Port]:
        """Return its ports in the order of their numbers."""
        return parse_ports(self._command("show port summary all"))

    def forward(self, entry: int, exit_: int, *, sender: str, receiver: str) -> None:
        """Begin to forward between the ports with these numbers, to the MACs of the sender and the receiver."""
        self._wait_for_links()
        self._command("set promisc all off")  # only frames to it: the others are not its to forward
        self._command(f"set eth-peer {entry} {sender}")
        self._command(f"set eth-peer {exit_} {receiver}")
        self._command("start")

    def counts(self, entry: int, exit_: int) -> Forwarded:
        """Return what it has counted since it forwards, on the way from one port to the other."""
        return parse_counts(self._command("show fwd stats all"), entry, exit_)

    def quit(self) -> None:
        """End it, and wait for that; nothing happens if it has ended."""
        with suppress(Error):
            self._command("quit", ends=True)

    def _wait_for_links(self) -> None:
        deadline = time.monotonic() + _LINK
        while down := [port for port in self.ports() if not port.is_up]:
            if time.monotonic() > deadline:
                what = f"port {down[0].number} ({down[0].device}, {down[0].driver}) has had no link for {_LINK:g} s"
                hint = "has the switch connected to the socket, or is the PF up?"
                raise Error(Kind.UNAVAILABLE, what, where=self._where, hint=hint)
            time.sleep(0.1)  # testpmd reports the change of a link only by the way

    def _command(self, text: str, *, ends: bool = False) -> str:
        """Run a command at the prompt, and return what it printed."""
        with suppress(BrokenPipeError):  # it has ended: so does its output
            os.write(self._commands, f"{text}\n".encode())
        return self._to_prompt(ends=ends)

    def _to_prompt(self, *, ends: bool = False) -> str:
        """Read up to the next prompt, or to the end of the output if that `ends`."""
        said, deadline = "", time.monotonic() + _PATIENCE
        while ends or _PROMPT not in said:
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                hint = f"it last printed: {last_lines(self._said)}"
                what = f"testpmd has not answered for {_PATIENCE:g} s"
                raise Error(Kind.UNAVAILABLE, what, where=self._where, hint=hint)
            piece = os.read(self._output, 65536)
            if not piece:
                raise self._ended()
            said += piece.decode(errors="replace")
            self._said = (self._said + piece.decode(errors="replace"))[-65536:]
        return said

    def _ended(self) -> Error:
        what = f"testpmd has ended; its last lines: {last_lines(self._said)}"
        return Error(Kind.UNAVAILABLE, what, where=self._where)


@contextmanager
def connected(folder: Path, where: Thing) -> Iterator[Testpmd]:
    """Connect to the testpmd that SCRIPT runs in a pod, and end it after the block. Raises Error(UNAVAILABLE)."""
    output = os.open(folder / _OUTPUT, os.O_RDONLY | os.O_CLOEXEC)  # waits until the script opens it
    commands = os.open(folder / _COMMANDS, os.O_WRONLY | os.O_CLOEXEC)
    try:
        testpmd = Testpmd(commands, output, where)
        try:
            yield testpmd
        finally:
            testpmd.quit()
    finally:
        os.close(commands)
        os.close(output)


def parse_ports(text: str) -> list[Port]:
    """Return the ports from the output of `show port summary all`."""
    return [
        Port(int(number), mac.lower(), device, driver, link == "up")
        for number, mac, device, driver, link in _SUMMARY.findall(text)
    ]


def parse_counts(text: str, entry: int, exit_: int) -> Forwarded:
    """Return the counts from the output of `show fwd stats all`."""
    counts = {number: dict(_COUNTER.findall(part)) for number, part in _parts(text)}
    return Forwarded(
        received=int(counts[entry]["RX-packets"]),
        missed=int(counts[entry]["RX-dropped"]),
        sent=int(counts[exit_]["TX-packets"]),
        dropped=int(counts[exit_]["TX-dropped"]),
    )


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each port, and the text about it, which ends before that about all ports together."""
    alone, _, _ = text.partition("Accumulated forward statistics")
    _, *pieces = re.split(r"Forward statistics for port (\d+)", alone)
    yield from zip(map(int, pieces[::2]), pieces[1::2], strict=True)


def last_lines(text: str) -> str:
    """Return the last lines of an output, on one line."""
    lines = [line.strip() for line in text.replace(_PROMPT, "\n").splitlines()]
    return " | ".join(list(filter(None, lines))[-_KEPT:]) or "none"


def find(ports: Sequence[Port], *, device: str, mac: str) -> Port | None:
    """Return the port with a PCI address, or else with a MAC."""
    return next((port for port in ports if port.device == device), None) or next(
        (port for port in ports if port.mac == mac.lower()), None
    )
