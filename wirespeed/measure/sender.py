"""Sends the frames of a trial at a constant rate, many in one system call if the rate requires it."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import time
from types import TracebackType
from typing import NamedTuple

from wirespeed.errors import as_error
from wirespeed.kernel.sysfs import attribute_text
from wirespeed.measure import frames
from wirespeed.measure.trial import FCS, Load

_BATCH = 64  # frames in one system call, at most
# A sender that was held up makes up for at most this many seconds. What it missed beyond that moves the schedule:
# the rest of the frames is sent later, and the trial shows a lower rate.
_BACKLOG = 0.1
# How it makes up for them: at this multiple of the rate, and with bursts of at most this many seconds of it.
_CATCH_UP, _BURST = 1.25, 0.002
_SPIN = 30_000  # ns before a frame is due that the sender does not sleep: waking up takes about as long
# A real-time thread that takes more than 95 % of a CPU is stopped for the rest of each second (kernel:
# sched_rt_runtime_us), so the sender rests this many seconds in every period of so many ns.
_REST, _REST_PERIOD = 60e-6, 1_000_000

_OFFSET = 2  # of a frame in its slot, which aligns the fields of 8 bytes


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):  # struct msghdr
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):  # struct mmsghdr
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


_sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.POINTER(_Message), ctypes.c_uint, ctypes.c_int)
_sendmmsg.restype = ctypes.c_int


class Sent(NamedTuple):
    """What was sent; see trial.Trial. `elapsed` ends with the interval of the last frame."""

    frames: int
    elapsed: float
    burst: int
    starved: float


class Sender:
    """Sends from an interface of the namespace in which it is created. Raises Error(IO)."""

    def __init__(self, interface: str, source: bytes, destination: bytes) -> None:
        self._interface, self._source, self._destination = interface, source, destination
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((interface, 0))  # protocol 0: it receives nothing

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, load: Load, trial: int) -> Sent:
        """Send a load, as the frames of this trial. Raises Error(IO).

        A frame that the queue of the interface drops counts as sent: the path lost it. When the queue is full, the
        kernel makes the sender wait instead.
        """
        batch = _Batch(frames.template(self._destination, self._source, trial, load.size - FCS))
        starved = _run_delay()
        pace = Pace(load.rate, time.monotonic_ns())
        total, sent, burst = load.frames, 0, 0
        rested = pace.started
        while sent < total:
            now = time.monotonic_ns()
            if now - rested > _REST_PERIOD:
                time.sleep(_REST)
                rested = now = time.monotonic_ns()
            due = min(pace.due(now), _BATCH, total - sent)
            if not due:
                if (wait := pace.next_due() - now) > 2 * _SPIN:
                    time.sleep((wait - _SPIN) / 1e9)
                    rested = time.monotonic_ns()
                continue
            accepted = self._send(batch, sent, due)
            pace.sent(accepted)
            sent += accepted
            burst = max(burst, accepted)
        elapsed = max(time.monotonic_ns() - pace.started, total * pace.interval)
        return Sent(sent, elapsed / 1e9, burst, (_run_delay() - starved) / 1e9)

    def _send(self, batch: _Batch, first: int, count: int) -> int:
        batch.stamp(first, count)
        accepted: int = _sendmmsg(self._socket.fileno(), batch.messages, count, 0)
        if accepted >= 0:
            return accepted
        match ctypes.get_errno():
            case errno.EINTR:
                return 0
            case errno.ENOBUFS:
                return 1
            case number:
                raise as_error(OSError(number, os.strerror(number)), f"sending on {self._interface}")


class Pace:
    """When frames are due: frame n at n intervals after the start (ns), later ones if the sender was held up.

    A frame also needs a token. Tokens come faster than frames are due, so they matter only after a delay.
    """

    def __init__(self, rate: float, started: int) -> None:
        self.started = started
        self.interval = 1e9 / rate  # ns
        self._first_due, self._sent = float(started), 0
        self._full = max(1.0, rate * _BURST)
        self._tokens, self._filled = self._full, started

    def due(self, now: int) -> int:
        """Return how many frames are due at `now`."""
        behind = int((now - self._first_due) / self.interval) + 1 - self._sent
        if (missed := behind * self.interval / 1e9 - max(_BACKLOG, self.interval / 1e9)) > 0:
            self._first_due += missed * 1e9
        self._tokens = min(self._full, self._tokens + (now - self._filled) * _CATCH_UP / self.interval)
        self._filled = now
        return max(0, min(behind, int(self._tokens)))

    def next_due(self) -> float:
        """Return when the next frame is due, if there are tokens."""
        return self._first_due + self._sent * self.interval

    def sent(self, count: int) -> None:
        self._sent += count
        self._tokens -= count


def _run_delay() -> int:
    """Return the time in ns that this thread waited for a CPU (kernel: Documentation/scheduler/sched-stats)."""
    return int((attribute_text("/proc/thread-self/schedstat") or "0 0 0").split()[1])


class _Batch:
    """Copies of a frame, and the argument of sendmmsg(2) for them."""

    def __init__(self, frame: bytes) -> None:
        slot = (_OFFSET + len(frame) + 7) // 8 * 8
        buffer = bytearray((bytes(_OFFSET) + frame).ljust(slot, b"\0") * _BATCH)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._vectors = (_IoVec * _BATCH)()
        self.messages = (_Message * _BATCH)()
        for number in range(_BATCH):
            self._vectors[number] = _IoVec(address + number * slot + _OFFSET, len(frame))
            header = self.messages[number].header
            header.vectors = ctypes.pointer(self._vectors[number])
            header.vector_count = 1
        words = memoryview(buffer).cast("Q")
        self._numbers = words[(_OFFSET + frames.NUMBER) // 8 :: slot // 8]
        self._times = words[(_OFFSET + frames.SENT) // 8 :: slot // 8]

    def stamp(self, first: int, count: int) -> None:
        """Number the first `count` frames from `first`, and write the time into them."""
        self._numbers[:count] = array.array("Q", range(first, first + count))
        self._times[:count] = array.array("Q", [time.clock_gettime_ns(time.CLOCK_REALTIME)]) * count
