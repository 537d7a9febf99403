"""The chart's dashboard as a drawing, from what a Prometheus server answered to its panels.

python -m docsite.dashboard < RECORD > SVG    # a record of tests/node/record_dashboard.py: make drawings
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import msgspec

_COLUMN, _ROW, _GAP = 50, 28, 6  # pixels: a column and a row of the grid of 24 columns; between panels
_LEFT, _TOP, _LINE, _LETTER = 64, 30, 15, 6.1  # of a panel: beside and above its plot; a line of text; a letter
_COLOURS = ("#00897b", "#1e88e5", "#fb8c00", "#c62828", "#8e24aa", "#6d4c41", "#546e7a", "#c0ca33")
_STYLE = (
    "text{font:11px 'DejaVu Sans',sans-serif;fill:#263238}.title{font-weight:bold;font-size:12px}"
    ".row{font-weight:bold;font-size:15px}.about{fill:#78909c}.end{text-anchor:end}.middle{text-anchor:middle}"
)
# What Grafana calls the units: the steps by which a unit's prefix changes, with the names.
_UNITS: dict[str, tuple[int, tuple[str, ...]]] = {
    "bps": (1000, ("b/s", "kb/s", "Mb/s", "Gb/s")),
    "bytes": (1024, ("B", "KiB", "MiB", "GiB")),
    "ops": (1000, ("ops/s",)),
    "pps": (1000, ("p/s", "kp/s", "Mp/s")),
    "reqps": (1000, ("req/s",)),
    "s": (1000, ("s",)),
}


class Series(msgspec.Struct, frozen=True):
    """A series of an answer: its legend, its labels, and its values at Unix times."""

    legend: str
    labels: dict[str, str]
    values: list[tuple[float, float]]


class Panel(msgspec.Struct, frozen=True):
    """A panel of the dashboard: what its file says, and the answers to its expressions."""

    type: str
    title: str
    grid: dict[str, int]  # x, y, w, h
    unit: str
    stacked: bool
    hidden: list[str]  # columns that a table does not show
    expressions: list[str]
    series: list[Series] = []


class Record(msgspec.Struct, frozen=True):
    """The panels, and the Unix times between which the answers are."""

    start: float
    end: float
    panels: list[Panel]


def described(panel: Mapping[str, Any]) -> Panel:
    """What the dashboard's file says of a panel, without answers."""
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    hidden = [each["options"]["excludeByName"] for each in panel.get("transformations", ())]
    return Panel(
        type=panel["type"],
        title=panel["title"],
        grid=panel["gridPos"],
        unit=defaults.get("unit", ""),
        stacked="stacking" in defaults.get("custom", {}),
        hidden=[name for names in hidden for name in names],
        expressions=[target["expr"] for target in panel.get("targets", ())],
    )


class _Plot(NamedTuple):
    """A plot: its place on the drawing, and what its edges mean."""

    x: float
    y: float
    width: float
    height: float
    record: Record
    top: float  # the value at the upper edge

    def at(self, time: float, value: float) -> str:
        share = (time - self.record.start) / (self.record.end - self.record.start)
        return f"{self.x + share * self.width:.1f},{self.y + self.height * (1 - value / self.top):.1f}"


def svg(record: Record) -> str:
    """Return the drawing, with the panels at their places in the grid."""
    height = _ROW * max(panel.grid["y"] + panel.grid["h"] for panel in record.panels) + _GAP
    width = 24 * _COLUMN + _GAP
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>The panels of the dashboard, drawn from the answers of Prometheus</title>",
            f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#f4f5f5"/>',
            *(line for panel in record.panels for line in _drawn(panel, record)),
            "</svg>\n",
        ]
    )


def _drawn(panel: Panel, record: Record) -> Iterator[str]:
    x, y = panel.grid["x"] * _COLUMN + _GAP, panel.grid["y"] * _ROW + _GAP
    width, height = panel.grid["w"] * _COLUMN - _GAP, panel.grid["h"] * _ROW - _GAP
    if panel.type == "row":
        yield f'<text class="row" x="{x + 4}" y="{y + 17}">{escape(panel.title)}</text>'
        return
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#fff" stroke="#d8d9da"/>'
    yield f'<text class="title" x="{x + 8}" y="{y + 18}">{escape(panel.title)}</text>'
    if not panel.series:
        yield f'<text class="about middle" x="{x + width / 2}" y="{y + height / 2}">No data</text>'
    elif panel.type == "table":
        yield from _table(panel, x + 8, y + _TOP + 12, width - 16)
    else:
        legend = list(_legend(panel.series, x + 8, width - 16))
        above = y + height - 8 - _LINE * (legend[-1][1])
        room = above - y - _TOP - 18
        top = _upper_end(max(value for line in _lines(panel) for _, value in line.values), panel.unit)
        yield from _plotted(panel, _Plot(x + _LEFT, y + _TOP, width - _LEFT - 14, room, record, top))
        for place, line, text, colour in legend:
            at = above + _LINE * line
            yield f'<rect x="{place:.1f}" y="{at - 4}" width="10" height="3" fill="{colour}"/>'
            yield f'<text x="{place + 14:.1f}" y="{at}">{escape(text)}</text>'


def _plotted(panel: Panel, plot: _Plot) -> Iterator[str]:
    """Yield the axes and the lines."""
    for step in range(5):
        value = plot.top * step / 4
        y = plot.y + plot.height * (1 - step / 4)
        yield f'<path d="M{plot.x} {y:.1f}h{plot.width}" stroke="#eceff1"/>'
        text = _amount(value, panel.unit, plot.top)
        yield f'<text class="about end" x="{plot.x - 5}" y="{y + 4:.1f}">{text}</text>'
    seconds = round(plot.record.end - plot.record.start)
    for step in range(3):
        x = plot.x + plot.width * step / 2
        where = "end" if step == 2 else "middle"
        text = f"{seconds * step // 2} s"
        yield f'<text class="about {where}" x="{x:.1f}" y="{plot.y + plot.height + 14:.1f}">{text}</text>'
    for index, line in enumerate(_lines(panel)):
        points = " ".join(plot.at(*each) for each in line.values)
        colour = _COLOURS[index % len(_COLOURS)]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _lines(panel: Panel) -> Iterator[Series]:
    """Yield what is drawn: the series, in a stacked panel each upon those before."""
    below: dict[float, float] = {}
    for series in panel.series:
        if not panel.stacked:
            yield series
            continue
        values = [(time, value + below.get(time, 0.0)) for time, value in series.values]
        below.update(values)
        yield Series(series.legend, series.labels, values)


def _legend(series: Sequence[Series], x: float, width: float) -> Iterator[tuple[float, int, str, str]]:
    """Yield the entries of the legend: place, line (from 1), text and colour."""
    place, line = x, 1
    for index, each in enumerate(series):
        wide = 14 + _LETTER * len(each.legend) + 12
        if place > x and place + wide > x + width:
            place, line = x, line + 1
        yield place, line, each.legend, _COLOURS[index % len(_COLOURS)]
        place += wide


def _table(panel: Panel, x: float, y: float, width: float) -> Iterator[str]:
    names = sorted({name for each in panel.series for name in each.labels} - {*panel.hidden})
    rows = [names, *([each.labels.get(name, "") for name in names] for each in panel.series)]
    wanted = [max(len(row[column]) for row in rows) + 2 for column in range(len(names))]
    letter = min(_LETTER, width / sum(wanted))
    for line, row in enumerate(rows):
        place = x
        for text, letters in zip(row, wanted, strict=True):
            style = f'style="font-size:{11 * letter / _LETTER:.1f}px" class="{"about" if line == 0 else ""}"'
            yield f'<text {style} x="{place:.1f}" y="{y + _LINE * line}">{escape(text)}</text>'
            place += letter * letters


def _upper_end(value: float, unit: str) -> float:
    """Where an axis ends: 1, 2, 4, 5 or 10 times a power of ten, in the unit with its prefix; 1 for 0."""
    if value <= 0:
        return 1.0
    scale, _ = _prefix(unit, value)
    power = 10.0 ** math.floor(math.log10(value / scale))
    return scale * next(
        factor * power for factor in (1, 2, 4, 5, 10) if factor * power >= value / scale * (1 - 1e-9)
    )


def _amount(value: float, unit: str, top: float) -> str:
    """A value of an axis, with the prefix of the axis' upper end."""
    scale, name = _prefix(unit, top)
    return f"{value / scale:.4g} {name}".strip()


def _prefix(unit: str, value: float) -> tuple[float, str]:
    """What a unit's name with the prefix for a value counts, and that name."""
    if unit == "s" and value < 1:
        return 1e-3, "ms"
    step, names = _UNITS.get(unit, (1000, ("",)))
    index = min(len(names) - 1, int(math.log(value, step))) if value >= 1 else 0
    return float(step**index), names[index]


if __name__ == "__main__":
    sys.stdout.write(svg(msgspec.json.decode(sys.stdin.buffer.read(), type=Record)))
