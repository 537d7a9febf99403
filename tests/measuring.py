"""A simulated path for measurements: it loses what exceeds its rate, and says what a real one would."""

from __future__ import annotations

from dataclasses import dataclass, field

from wirespeed.measure.forwarder import Forwarder
from wirespeed.measure.path import Interface
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
