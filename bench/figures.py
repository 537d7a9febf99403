"""Measured values: percentiles and ratios of series, as a table, in Markdown and in JSON."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

HEADINGS = ("what", "system", "n", "p50", "p90", "p99", "ratio of p50")


@dataclass
class Figures:
    """Values by measurement ("ADD of a kernel VF") and system, and notes. Ratios are to the first system."""

    title: str
    series: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, system: str, figure: float, unit: str = "ms") -> None:
        self.series.setdefault(what, {}).setdefault(system, []).append(figure)
        self.units[what] = unit

    def ratio(self, what: str, system: str) -> float:
        series = self.series[what]
        return percentile(series[system], 50) / percentile(next(iter(series.values())), 50)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, with columns as in HEADINGS."""
        found = []
        for what, series in self.series.items():
            for number, (system, measured) in enumerate(series.items()):
                shown = [f"{percentile(measured, share):.2f} {self.units[what]}" for share in (50, 90, 99)]
                ratio = f"{self.ratio(what, system):.2f}" if number else "1"
                found.append((what, system, str(len(measured)), *shown, ratio))
        return found

    def show(self) -> None:
        table = Table(*HEADINGS, title=self.title)
        for what, rows in itertools.groupby(self.rows(), lambda row: row[0]):
            for number, row in enumerate(rows):
                table.add_row("" if number else what, *row[1:])
            table.add_section()
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(table)
        for name, value in self.notes.items():
            console.print(f"{name}: {value}", highlight=False)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _cells(HEADINGS), _cells(["---"] * 2 + ["--:"] * 5)]
        lines += [_cells(row) for row in self.rows()]
        lines += ["", *(f"- {name}: {value}" for name, value in self.notes.items())]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, name: str) -> None:
        """Write <folder>/<name>.md, and <name>.json with every single value."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(self.markdown())
        values = {"title": self.title, "notes": self.notes, "units": self.units, "series": self.series}
        (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the percentile by the nearest-rank method."""
    return sorted(figures)[max(0, math.ceil(share / 100 * len(figures)) - 1)]


def interleaved(rounds: int, turns: Sequence[Callable[[int], None]]) -> None:
    """Call all turns in every round, with the order reversed in every other round, so that noise affects all alike.

    Round 0 is a warm-up: turns must discard what they measure in it.
    """
    for number in range(rounds + 1):
        for turn in turns if number % 2 else reversed(turns):
            turn(number)


def machine() -> str:
    uname = platform.uname()
    return f"{os.cpu_count()} cores, {uname.machine}, Linux {uname.release}, Python {platform.python_version()}"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
