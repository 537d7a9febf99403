"""The receiving end of a measurement: a process of its own, which the measuring process drives over a socket.

`python -m wirespeed.measure.receiver` serves the socket that is its standard input. Both sides write one JSON
object a line: Begin is answered with Begun, and End with Counted, or either with Failed.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind, Thing, as_error
from wirespeed.kernel import netns
from wirespeed.measure import frames
from wirespeed.measure.ring import Ring
from wirespeed.measure.trial import FCS, Arrivals, Latencies, Latency

RESIDUAL = 2.0  # seconds to wait for frames after the last was sent (RFC 2544, section 23)

_FEW = 64  # frames; with no more to read, the receiver lets some gather
_GATHER = 0.001  # seconds, in which no generator fills the ring
_LEARNING = 3  # frames from which switches learn where the receiver is (RFC 2544, section 23)
_STEP = 1_000_000  # ns; a larger difference between two clocks is a step, not the time of reading them


@structs.prepared
class Begin(msgspec.Struct, frozen=True, tag=True):
    """Receive a trial of `frames` frames on an interface.

    `own` is its MAC, and `towards` the one to which it sends learning frames, both as hex.
    """

    netns: str
    interface: str
    own: str
    towards: str
    trial: int
    frames: int
    latency: bool


@structs.prepared
class Begun(msgspec.Struct, frozen=True, tag=True):
    """From now on, frames are counted."""


@structs.prepared
class End(msgspec.Struct, frozen=True, tag=True):
    """All frames of the trial were sent."""

    sent: int


@structs.prepared
class Counted(msgspec.Struct, frozen=True, tag=True):
    """What arrived; see trial.Trial."""

    received: int
    duplicates: int
    reordered: int
    unread: int
    latency: Latency | None


@structs.prepared
class Failed(msgspec.Struct, frozen=True, tag=True):
    """An error, as text."""

    what: str


Request = Begin | End
Answer = Begun | Counted | Failed
M = TypeVar("M")


class Channel:
    """Messages over a stream socket."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream, self._lines = stream, stream.makefile("rb")

    def fileno(self) -> int:
        return self._stream.fileno()

    def put(self, message: Request | Answer) -> None:
        self._stream.sendall(msgspec.json.encode(message) + b"\n")

    def take(self, kind: type[M]) -> M | None:
        """Return the next message, None at the end."""
        line = self._lines.readline()
        return msgspec.json.decode(line, type=kind) if line else None


class Receiver:
    """The measuring process's side: a receiver process."""

    def __init__(self, channel: Channel, where: Thing) -> None:
        self._channel, self._where = channel, where

    def begin(self, request: Begin) -> None:
        """Make the receiver count the frames of a trial. Raises Error(IO)."""
        self._ask(request)

    def end(self, sent: int) -> Counted:
        """Return what arrived, once all has or RESIDUAL is over. Raises Error(IO)."""
        answer = self._ask(End(sent))
        assert isinstance(answer, Counted)
        return answer

    def _ask(self, request: Request) -> Begun | Counted:
        self._channel.put(request)
        answer = self._channel.take(Answer)  # type: ignore[arg-type]
        if isinstance(answer, Begun | Counted):
            return answer
        what = answer.what if isinstance(answer, Failed) else "the receiving process has ended"
        raise Error(Kind.IO, what, where=self._where)


@contextmanager
def started(where: Thing) -> Iterator[Receiver]:
    """Start a receiver process, and end it after the block; `where` is for its errors."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen([sys.executable, "-m", __name__], stdin=theirs.fileno())
        try:
            yield Receiver(Channel(ours), where)
        finally:
            ours.shutdown(socket.SHUT_RDWR)  # it ends at the end of the stream
            process.wait()


def serve(channel: Channel) -> None:
    """Serve a measuring process until it closes the channel."""
    while request := channel.take(Begin):
        try:
            ring = _open(request)
        except (Error, OSError) as error:
            channel.put(Failed(as_error(error).msg))
            continue
        try:
            channel.put(Begun())
            if (answer := _count(ring, channel, request)) is None:
                return
            channel.put(answer)
        finally:
            ring.close()


def introduce(interface: str, own: bytes, towards: bytes) -> None:
    """Send learning frames from an interface of this namespace to a MAC. Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as out:
        out.bind((interface, 0))
        for _ in range(_LEARNING):  # of no trial
            out.send(frames.template(towards, own, 0, frames.MINIMUM - FCS))


def _open(request: Begin) -> Ring:
    """Open the ring in the namespace, and send learning frames. Raises Error and OSError."""

    def create() -> Ring:
        ring = Ring(request.interface, request.trial)
        introduce(request.interface, bytes.fromhex(request.own), bytes.fromhex(request.towards))
        return ring

    if not request.netns:
        return create()
    with netns.opened(request.netns) as ns:
        return netns.inside(ns.fd, create)


def _count(ring: Ring, channel: Channel, request: Begin) -> Counted | Failed | None:
    """Count frames until all have arrived, or RESIDUAL seconds after End; None if the channel was closed."""
    arrivals, latencies = Arrivals(request.frames), Latencies()
    before = _clock_offset()
    poller = select.poll()
    poller.register(ring, select.POLLIN)
    poller.register(channel, select.POLLIN)
    expected, deadline = -1, 0.0
    while expected < 0 or (arrivals.received < expected and time.monotonic() < deadline):
        found = ring.read(times=request.latency)
        if found:
            arrivals.add(found.numbers)
            if request.latency:
                pairs = zip(found.sent, found.arrived, strict=True)
                latencies.add([arrived - sent for sent, arrived in pairs])
            if len(found.numbers) >= _FEW:
                continue
            time.sleep(_GATHER)
        wait = RESIDUAL * 1000 if expected < 0 else max(0.0, 1000 * (deadline - time.monotonic()))
        ready = dict(poller.poll(0 if found else wait))
        if channel.fileno() in ready:
            if (end := channel.take(End)) is None:
                return None
            expected, deadline = end.sent, time.monotonic() + RESIDUAL
            poller.unregister(channel)
    if request.latency and abs(_clock_offset() - before) > _STEP:
        return Failed("the system's clock was set during the trial, so the latencies are unknown")
    return Counted(
        received=arrivals.received,
        duplicates=arrivals.duplicates,
        reordered=arrivals.reordered,
        unread=ring.overruns(),
        latency=latencies.summary(),
    )


def _clock_offset() -> int:
    """Return the difference in ns of the clock that can be set and the one that cannot."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


if __name__ == "__main__":
    serve(Channel(socket.socket(fileno=sys.stdin.fileno())))
