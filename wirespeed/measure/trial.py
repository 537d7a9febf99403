"""A trial: a load that is sent from one interface to another, and what became of it (RFC 2544, section 23)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from wirespeed.measure.forwarder import Forwarded

FCS = 4  # bytes; frame sizes include the frame check sequence, which sockets neither send nor receive
GAP = 20  # bytes of preamble, start of frame and interframe gap: what a frame takes on the wire beyond its size

# A sender that reaches less than this share of the requested rate has not offered the load.
OFFERED_SHARE = 0.99
# A sender that waited for a CPU for this share of a trial was held up by the machine.
STARVED_SHARE = 0.01


class Load(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a trial sends: frames of `size` bytes (with FCS), at `rate` frames/s, for `seconds`."""

    size: int
    rate: float
    seconds: float

    @property
    def frames(self) -> int:
        return max(1, round(self.rate * self.seconds))


class Latency(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Latencies of the frames of a trial in µs; percentiles by the nearest-rank method."""

    frames: int
    minimum: float
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    maximum: float


class Outcome(Enum):
    """What a trial shows about its rate."""

    PASSED = "passed"
    LOST = "lost"  # the path lost frames
    NOT_SENT = "notSent"  # the sender did not reach the rate
    NOT_READ = "notRead"  # the path lost none, but the receiving program was too slow to read all


class Losses(NamedTuple):
    """How many frames were lost before a forwarder, in it (as RX-missed and TX-dropped) and after it."""

    before: int
    missed: int
    dropped: int
    after: int


class Trial(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of a trial.

    `elapsed` are the seconds in which the frames were sent. `received` are the different frames that were read,
    `duplicates` and `reordered` further copies and frames after one with a higher number. `unread` are the frames
    that arrived when the buffer of the receiving socket was full: the measurement lost them, not the path.
    `burst` is the largest number of frames that were sent without a gap. `starved` are the seconds in which the
    sender waited for a CPU (0 if the kernel does not tell). `forwarded` is what a forwarder in the path counted, if
    that is known.
    """

    load: Load
    sent: int
    elapsed: float
    received: int
    duplicates: int = 0
    reordered: int = 0
    unread: int = 0
    burst: int = 1
    starved: float = 0.0
    latency: Latency | None = None
    forwarded: Forwarded | None = None

    @property
    def offered(self) -> float:
        """The frames/s that were sent."""
        return self.sent / self.elapsed

    @property
    def lost(self) -> int:
        return max(0, self.sent - self.received - self.unread)

    @property
    def loss(self) -> float:
        """The frame loss rate in percent: (input - output) * 100 / input (RFC 2544, section 26.3)."""
        return 100 * self.lost / self.sent

    @property
    def losses(self) -> Losses | None:
        """Where frames were lost, if a forwarder in the path counted them."""
        if (counted := self.forwarded) is None:
            return None
        return Losses(
            before=max(0, self.sent - counted.received - counted.missed),
            missed=counted.missed,
            dropped=counted.dropped,
            after=max(0, counted.sent - self.received - self.unread),
        )

    @property
    def was_starved(self) -> bool:
        return self.starved >= STARVED_SHARE * self.elapsed

    @property
    def void(self) -> bool:
        """Whether it shows nothing about the path, because the machine held up the sender or the receiver."""
        outcome = self.outcome()
        return outcome is Outcome.NOT_READ or (outcome is Outcome.NOT_SENT and self.was_starved)

    def outcome(self, accepted_loss: float = 0.0) -> Outcome:
        """Return what the trial shows, if up to `accepted_loss` percent may be lost."""
        if self.loss > accepted_loss:
            return Outcome.LOST
        if self.unread:
            return Outcome.NOT_READ
        return Outcome.PASSED if self.offered >= OFFERED_SHARE * self.load.rate else Outcome.NOT_SENT


def line_rate(mbits: float, size: int) -> float:
    """Return the frames/s that a medium of `mbits` Mbit/s carries."""
    return mbits * 1e6 / (8 * (size + GAP))


def mbits(rate: float, size: int) -> float:
    """Return the Mbit/s of frames, without the gaps between them."""
    return rate * size * 8 / 1e6


class Latencies:
    """Counts latencies (ns) in steps of 32 ns, so that a trial of any length takes little memory."""

    _SHIFT = 5

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, latencies: Sequence[int]) -> None:
        shift = self._SHIFT
        self._counts.update([each >> shift for each in latencies])

    def summary(self) -> Latency | None:
        """Return the figures, None if there are no latencies."""
        steps = sorted(self._counts.items())
        total = self._counts.total()
        if not total:
            return None
        ranks = {name: math.ceil(share * total) for name, share in _PERCENTILES.items()}
        found, passed = dict.fromkeys(ranks, 0.0), 0
        for step, count in steps:
            for name, rank in ranks.items():
                if passed < rank <= passed + count:
                    found[name] = self._us(step)
            passed += count
        return Latency(
            frames=total,
            minimum=self._us(steps[0][0]),
            mean=sum(self._us(step) * count for step, count in steps) / total,
            maximum=self._us(steps[-1][0]),
            **found,
        )

    def _us(self, step: int) -> float:
        """Return the middle of a step."""
        return (step + 0.5) * (1 << self._SHIFT) / 1000


_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


class Arrivals:
    """Counts the numbers of arriving frames: different ones, duplicates, and those after a higher one."""

    def __init__(self, frames: int) -> None:
        self._seen = bytearray(frames)
        self._next = 0  # the highest number so far, and 1
        self.received = self.duplicates = self.reordered = 0

    def add(self, numbers: Sequence[int]) -> None:
        """Add numbers in the order of arrival; each is less than `frames`."""
        first, end = numbers[0], numbers[0] + len(numbers)
        if first >= self._next and numbers[-1] == end - 1 and list(numbers) == list(range(first, end)):
            self._seen[first:end] = b"\1" * len(numbers)
            self.received += len(numbers)
            self._next = end
            return
        for number in numbers:
            if self._seen[number]:
                self.duplicates += 1
                continue
            self._seen[number] = 1
            self.received += 1
            if number < self._next:
                self.reordered += 1
            else:
                self._next = number + 1
