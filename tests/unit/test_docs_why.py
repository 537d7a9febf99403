"""docs/why.md: the figures are those of docs/benchmarks.md, and the ratios follow from them (but for rounding)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BENCHMARKS = (DOCS / "benchmarks.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (DOCS / "why.md").read_text(), re.MULTILINE)


def test_the_figures_are_there() -> None:
    assert len(ROWS) == 8


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_figures_are_measured_and_ratios_follow(row: tuple[str, str, str, str]) -> None:
    _, ours, theirs, ratio = row
    for figure in (ours, theirs):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", BENCHMARKS)
    assert float(ratio) == pytest.approx(float(theirs) / float(ours), rel=0.01)
