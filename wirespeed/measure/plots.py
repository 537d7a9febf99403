"""The picture of a report, one SVG without references to anything else: the graphs that RFC 2544 asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from wirespeed.measure.report import Report, SizeReport
from wirespeed.measure.trial import Latency

_WIDTH, _LEFT, _RIGHT = 780, 90, 200  # of the picture, and of the margins beside a graph
_HEIGHT, _TOP, _BOTTOM = 220, 46, 44  # of a graph, and of the margins above and below it
_HEAD = 58  # height of the title
_COLOURS = ("#00695c", "#ef6c00", "#5e35b1", "#1e88e5", "#c62828", "#6d4c41", "#546e7a")
_GREY = "#90a4ae"

Point = tuple[float, float]


class _Line(NamedTuple):
    """A line of a graph, in the units of its axes. A reference (dashed) may leave the graph at the top."""

    name: str
    points: Sequence[Point]
    colour: str
    dashed: bool = False


class _Axis(NamedTuple):
    """An axis: what it shows, its ticks with their texts, and where it ends; `log`: the distances are of log10."""

    title: str
    ticks: Sequence[tuple[float, str]]
    start: float
    end: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value is on the axis, from 0 to 1."""
        scale: Callable[[float], float] = math.log10 if self.log else float
        return (scale(value) - scale(self.start)) / (scale(self.end) - scale(self.start))


class _Graph(NamedTuple):
    title: str
    x: _Axis
    y: _Axis
    lines: Sequence[_Line]


def svg(report: Report) -> str:
    """Return the picture: throughput, latency and loss, as far as they were measured."""
    graphs = list(_graphs(report))
    height = _HEAD + len(graphs) * (_TOP + _HEIGHT + _BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="DejaVu Sans, sans-serif" font-size="12" fill="#263238">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(16, 24, _title(report), size=15, bold=True),
        _text(16, 44, _subtitle(report), colour="#546e7a"),
    ]
    for number, graph in enumerate(graphs):
        parts += _drawn(graph, _HEAD + number * (_TOP + _HEIGHT + _BOTTOM) + _TOP, number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(report: Report) -> str:
    ends = f"{report.source.name} to {report.destination.name}"
    return f"{ends} through {report.forwarder.program or 'a forwarder'}" if report.forwarder else ends


def _subtitle(report: Report) -> str:
    drivers = dict.fromkeys(each.driver or "no driver" for each in (report.source, report.destination))
    trial = f"trials of {report.settings.trial:g} s"
    return f"{' to '.join(drivers)}, {trial}, {report.started}, {report.machine}, wirespeed {report.version}"


def _graphs(report: Report) -> Iterator[_Graph]:
    sizes = report.sizes
    x = _Axis(
        "frame size in bytes", [(index, str(each.size)) for index, each in enumerate(sizes)], -0.3, len(sizes) - 0.7
    )
    if "throughput" in report.settings.tests:
        yield _throughput(sizes, report.direct, x)
    if found := _latencies(sizes):
        title = f"Latency at {report.settings.latency_load:g} % of the throughput (RFC 2544, 26.2)"
        yield _latency(title, found, _latencies(report.direct), x)
    if any(each.loss for each in sizes):
        yield _loss(sizes, report.direct)


def _latencies(sizes: Sequence[SizeReport]) -> list[tuple[int, Latency]]:
    """Return the latencies that were measured, each with the index of its frame size."""
    found = ((index, each.latency and each.latency.latency) for index, each in enumerate(sizes))
    return [(index, latency) for index, latency in found if latency]


def _rates(sizes: Sequence[SizeReport]) -> list[Point]:
    return [(index, each.throughput.rate) for index, each in enumerate(sizes) if each.throughput]


def _throughput(sizes: Sequence[SizeReport], direct: Sequence[SizeReport], x: _Axis) -> _Graph:
    rates, without = _rates(sizes), _rates(direct)
    top = 1.1 * min(
        max(each.maximum for each in (*sizes, *direct)), 4 * max(1.0, *(rate for _, rate in (*rates, *without)))
    )
    lines = [
        _Line("line rate", [(i, each.line_rate) for i, each in enumerate(sizes) if each.line_rate], _GREY, True),
        _Line("generator alone", [(i, each.generator) for i, each in enumerate(sizes)], _COLOURS[1], True),
        _Line("throughput", rates, _COLOURS[0]),
        _Line("throughput, direct", without, _COLOURS[3]),
    ]
    ticks = _ticks(top)
    y = _Axis("frames/s", [(tick, f"{tick:,.0f}") for tick in ticks], 0, ticks[-1])
    shown = [
        line._replace(name=f"{line.name} (above)") if all(rate > ticks[-1] for _, rate in line.points) else line
        for line in lines
        if line.points
    ]
    return _Graph("Throughput (RFC 2544, 26.1)", x, y, shown)


def _latency(
    title: str, found: Sequence[tuple[int, Latency]], direct: Sequence[tuple[int, Latency]], x: _Axis
) -> _Graph:
    names = {"p50": "p50", "p99": "p99", "p999": "p99.9", "maximum": "maximum"}
    lines = [
        _Line(text, [(index, getattr(each, name)) for index, each in found], colour)
        for (name, text), colour in zip(names.items(), _COLOURS, strict=False)
    ]
    if direct:
        lines += [
            _Line(f"{text}, direct", [(index, getattr(each, name)) for index, each in direct], colour, True)
            for (name, text), colour in zip(names.items(), _COLOURS, strict=False)
        ]
    low = math.floor(math.log10(min(value for line in lines for _, value in line.points)))
    high = math.ceil(math.log10(max(value for line in lines for _, value in line.points)))
    high = max(high, low + 1)
    y = _Axis("µs", [(10.0**n, f"{10.0**n:,g}") for n in range(low, high + 1)], 10.0**low, 10.0**high, log=True)
    return _Graph(title, x, y, lines)


def _loss(sizes: Sequence[SizeReport], direct: Sequence[SizeReport]) -> _Graph:
    lines = [
        _Line(
            f"{each.size} bytes{', direct' if is_direct else ''}",
            sorted((100 * trial.offered / each.maximum, trial.loss) for trial in each.loss),
            _COLOURS[index % len(_COLOURS)],
            is_direct,
        )
        for group, is_direct in ((sizes, False), (direct, True))
        for index, each in enumerate(group)
        if each.loss
    ]
    x = _Axis("sent, in percent of the maximum rate", [(each, str(each)) for each in range(0, 101, 10)], 0, 100)
    ticks = _ticks(max(1.0, *(loss for line in lines for _, loss in line.points)))
    y = _Axis("loss in percent", [(tick, f"{tick:g}") for tick in ticks], 0, ticks[-1])
    return _Graph("Frame loss rate (RFC 2544, 26.3)", x, y, lines)


def _ticks(top: float) -> list[float]:
    """Return 3 to 6 round numbers from 0 to at least `top`."""
    step = 10.0 ** math.floor(math.log10(top))
    step = next(each for each in (step / 5, step / 2, step, 2 * step) if top / each <= 5)
    return [round(number * step, 9) for number in range(math.ceil(top / step) + 1)]


# Drawing


def _drawn(graph: _Graph, top: float, number: int) -> Iterator[str]:
    width, bottom = _WIDTH - _LEFT - _RIGHT, top + _HEIGHT

    def place(point: Point) -> Point:
        return _LEFT + graph.x.share(point[0]) * width, bottom - graph.y.share(point[1]) * _HEIGHT

    yield _text(_LEFT, top - 16, graph.title, size=13, bold=True)
    for tick, text in graph.y.ticks:
        _, y = place((graph.x.start, tick))
        yield f'<path d="M{_LEFT} {y:.1f}h{width}" stroke="#eceff1"/>'
        yield _text(_LEFT - 8, y + 4, text, anchor="end")
    for tick, text in graph.x.ticks:
        yield _text(place((tick, graph.y.end))[0], bottom + 16, text, anchor="middle")
    yield _text(_LEFT + width / 2, bottom + 34, graph.x.title, anchor="middle", colour="#546e7a")
    yield (
        f'<text transform="translate(16 {top + _HEIGHT / 2:.1f}) rotate(-90)" text-anchor="middle" '
        f'fill="#546e7a">{escape(graph.y.title)}</text>'
    )
    area = f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_HEIGHT}"/>'
    yield f'<clipPath id="graph{number}">{area}</clipPath>'
    for index, line in enumerate(graph.lines):
        places = [place(point) for point in line.points]
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield (
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash} '
            f'clip-path="url(#graph{number})"/>'
        )
        if not line.dashed:
            yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in places)
        y = top + 10 + 18 * index
        yield f'<path d="M{_WIDTH - _RIGHT + 14} {y}h20" stroke="{line.colour}" stroke-width="2"{dash}/>'
        yield _text(_WIDTH - _RIGHT + 40, y + 4, line.name)


def _text(
    x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start", colour: str = ""
) -> str:
    more = (' font-weight="bold"' if bold else "") + (f' fill="{colour}"' if colour else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
