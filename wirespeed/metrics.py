"""Metrics that parts of the agent register, independent of the format in which they are exported."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

# The upper bounds of the buckets of histograms of durations, in seconds.
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, math.inf)


@dataclass
class Family:
    """A metric: `kind` is "gauge", "counter", "info" or "unknown"; `text` describes it in one line, with its unit.

    `name` has no suffix that its kind adds ("_total", "_info"). `samples` are pairs of label values and value.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, *labels: str, value: float = 1.0) -> None:
        self.samples.append((labels, value))


class Counts:
    """A counter that a part of the agent increases, in any thread."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, ...]] = Counter()

    def increase(self, *labels: str) -> None:
        with self._lock:
            self._counted[labels] += 1

    def family(self) -> Family:
        with self._lock:
            samples: list[tuple[tuple[str, ...], float]] = [*self._counted.items()]
        return Family(self._name, "counter", self._text, self._labels, samples)


class Distribution(NamedTuple):
    """The durations with some label values: how many took at most as long as each of SECONDS, and their sum."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total: float


class Durations:
    """A histogram of durations that a part of the agent observes, in any thread."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}  # by bucket, without those of lower buckets
        self._totals: dict[tuple[str, ...], float] = {}

    def observe(self, *labels: str, seconds: float) -> None:
        bucket = bisect_left(SECONDS, seconds)
        with self._lock:
            self._counts.setdefault(labels, [0] * len(SECONDS))[bucket] += 1
            self._totals[labels] = self._totals.get(labels, 0.0) + seconds

    def distributions(self) -> list[Distribution]:
        with self._lock:
            return [
                Distribution(labels, tuple(accumulate(counts)), self._totals[labels])
                for labels, counts in self._counts.items()
            ]


# Called at each scrape, from any thread. If it raises Error or OSError, its metrics are missing in that scrape.
Source = Callable[[], Iterable[Family | Durations]]
