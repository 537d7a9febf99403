"""A simulated path for measurements: it loses what exceeds its rate, and says what a real one would."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from wirespeed.measure.forwarder import Forwarder
from wirespeed.measure.path import Interface
from wirespeed.measure.procedure import measure
from wirespeed.measure.report import Report, Settings, Test
from wirespeed.measure.trial import Latency, Load, Trial, line_rate

LATENCY = Latency(frames=9, minimum=2, mean=4, p50=3, p90=5, p99=7, p999=8, maximum=9)


def interface(name: str, speed: int | None = None) -> Interface:
    return Interface(name=name, netns="", driver="veth", mac="02:00:00:00:00:01", mtu=1500, speed=speed)


@dataclass
class Simulated:
    """Forwards `knee` frames/s without loss; a sender reaches `reach` frames/s, and a receiver reads `read`."""

    knee: float = 1e12
    reach: float = 1e12
    read: float = 1e12
    starved: float = 0.0  # share of a trial
    speed: int | None = None
    loads: list[tuple[Load, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forwarder: Forwarder | None = None
        self.source, self.destination = interface("left", self.speed), interface("right", self.speed)

    def run(self, load: Load, *, latency: bool = False) -> Trial:
        self.loads.append((load, latency))
        rate = min(load.rate, self.reach)
        elapsed = load.frames / rate
        forwarded = min(load.frames, round(min(rate, self.knee) * elapsed))
        received = min(forwarded, round(min(rate, self.read) * elapsed))
        return Trial(
            load=load,
            sent=load.frames,
            elapsed=elapsed,
            received=received,
            unread=forwarded - received,
            starved=self.starved * elapsed,
            latency=LATENCY if latency else None,
        )

    def line_rate(self, size: int) -> float | None:
        return line_rate(self.speed, size) if self.speed else None

    def largest(self) -> int:
        return 1518


ALL: tuple[Test, ...] = ("throughput", "latency", "loss")
RFC = Settings(
    tests=ALL,
    sizes=(64, 1518),
    trial=60,
    pause=5,
    resolution=1,
    accepted_loss=0,
    latency_load=100,
    max_rate=None,
)


@dataclass
class Measured:
    """A measurement, the lines that it told, and the pauses that it made (in seconds)."""

    report: Report
    path: Simulated
    notes: list[str]
    slept: list[float]


def measured(path: Simulated, alone: Simulated | None = None, **changes: Any) -> Measured:
    """Measure by the settings of the RFC, with these changes."""
    notes: list[str] = []
    slept: list[float] = []
    settings = msgspec.structs.replace(RFC, **changes)
    found = measure(path, alone or Simulated(reach=300_000), settings, note=notes.append, sleep=slept.append)
    return Measured(found, path, notes, slept)
