"""Figures that the parts of the agent tell of themselves, whoever shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Family:
    """One figure: `kind` is "gauge", "counter" or "unknown"; `text` is one line with its unit.

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


# Called at each look, from any thread; it may raise CniError or OSError, and then is left out of that look.
Source = Callable[[], Iterable[Family]]
