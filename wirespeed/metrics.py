"""Metrics that parts of the agent register, independent of the format in which they are exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Family:
    """One metric: `kind` is "gauge", "counter" or "unknown"; `text` is one line with its unit.

    `samples` are (values of the labels, value).
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, *labels: str, value: float = 1.0) -> None:
        """Add a sample."""
        self.samples.append((labels, value))


# Called at each scrape, from any thread. If it raises CniError or OSError, its metrics are missing in that scrape.
Source = Callable[[], Iterable[Family]]
