"""The drawing of the dashboard: its panels at their places, with the answers of Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from docsite import drawings
from docsite.dashboard import Panel, Record, Series, described, svg

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(
    *series: Series, kind: str = "timeseries", unit: str = "short", stacked: bool = False
) -> ElementTree.Element:
    grid = {"x": 12, "y": 1, "w": 12, "h": 8}
    panel = Panel(kind, "A <title>", grid, unit, stacked, ["Value"], [], [*series])
    return ElementTree.fromstring(svg(Record(100.0, 160.0, [panel])))


def texts(drawing: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in drawing.iter(f"{SVG}text")]


def lines(drawing: ElementTree.Element) -> list[list[tuple[float, float]]]:
    found = [line.attrib["points"].split() for line in drawing.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points)] for points in found]


def test_record_is_of_the_dashboard_as_it_is_now() -> None:
    record = msgspec.json.decode((drawings.FOLDER / "dashboard.answers").read_bytes(), type=Record)
    panels = json.loads((ROOT / "deploy/chart/monitoring/dashboard.json").read_text())["panels"]
    recorded = [msgspec.structs.replace(panel, series=[]) for panel in record.panels]
    assert recorded == [described(panel) for panel in panels], (
        "pytest tests/node/record_dashboard.py, make drawings"
    )
    assert [panel.title for panel in record.panels if panel.expressions and not panel.series] == []


def test_series_are_lines_over_the_time_with_their_legends() -> None:
    drawing = drawn(
        Series("a & b", {}, [(100.0, 0.0), (130.0, 2.0), (160.0, 4.0)]),
        Series("c", {}, [(100.0, 1.0), (160.0, 1.0)]),
    )
    rising, level = lines(drawing)
    (left, zero), (middle, half), (right, top) = rising
    assert middle - left == pytest.approx(right - middle, abs=0.1)
    assert zero - half == pytest.approx(half - top, abs=0.1)
    assert level[0][0] == left
    assert level[0][1] == pytest.approx(zero - (zero - top) / 4, abs=0.1)
    assert {"A <title>", "a & b", "c", "0", "4", "0 s", "60 s"} <= {*texts(drawing)}


def test_stacked_series_are_drawn_upon_those_before() -> None:
    values = [(100.0, 2.0), (160.0, 2.0)]
    drawing = drawn(Series("a", {}, values), Series("b", {}, values), stacked=True)
    (_, low), (_, high) = (line[0] for line in lines(drawing))
    assert "4" in texts(drawing)
    assert low > high


@pytest.mark.parametrize(
    ("unit", "value", "end"),
    [
        ("bps", 9.4e9, "10 Gb/s"),
        ("bytes", 82 * 2**20, "100 MiB"),
        ("s", 0.41, "500 ms"),
        ("s", 41.0, "50 s"),
        ("pps", 0.0, "1 p/s"),
        ("short", 3.0, "4"),
    ],
)
def test_axis_ends_at_a_round_value_of_its_unit(unit: str, value: float, end: str) -> None:
    assert end in texts(drawn(Series("a", {}, [(100.0, value)]), unit=unit))


def test_table_shows_the_labels_that_are_not_hidden() -> None:
    drawing = drawn(Series("", {"node": "n1", "Value": "1"}, [(100.0, 1.0)]), kind="table")
    assert texts(drawing) == ["A <title>", "node", "n1"]


def test_panel_without_series_says_so() -> None:
    assert texts(drawn()) == ["A <title>", "No data"]


def test_panels_do_not_overlap_and_are_inside_the_drawing() -> None:
    drawing = ElementTree.parse(drawings.FOLDER / "dashboard.svg").getroot()
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    boxes = [
        tuple(float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        for box in drawing.iter(f"{SVG}rect")
        if "stroke" in box.attrib
    ]
    assert len(boxes) > 20
    for index, (x, y, w, h) in enumerate(boxes):
        assert x + w <= width
        assert y + h <= height
        for ox, oy, ow, oh in boxes[:index]:
            assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h
