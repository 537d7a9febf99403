"""The waterfall of a call: a bar for each step, inside that of the call."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from docsite import waterfall
from wirespeed.state.calls import Call
from wirespeed.trace import Step

SVG = "{http://www.w3.org/2000/svg}"


def call(*steps: Step, code: int = 0) -> Call:
    return Call(
        trace="0" * 32, verb="ADD", plugin="meta", pod="default/a", at=1.0, seconds=0.1, code=code, steps=[*steps]
    )


def bars(drawn: str) -> list[tuple[float, float, str]]:
    """(from, to, colour) of each bar, without the background."""
    rects = ElementTree.fromstring(drawn).iter(f"{SVG}rect")
    return [
        (float(rect.attrib["x"]), float(rect.attrib["x"]) + float(rect.attrib["width"]), rect.attrib["fill"])
        for rect in rects
        if "x" in rect.attrib
    ]


def test_bars_follow_each_other_inside_the_call_as_the_steps_did() -> None:
    drawn = waterfall.svg(
        call(Step("read", 0.0, 0.025), Step("attach", 0.025, 0.075), Step("move", 0.05, 0.05, parent=1))
    )
    whole, read, attach, move = [(left, right) for left, right, _ in bars(drawn)]
    assert whole[0] == read[0]
    assert read[1] == attach[0]
    assert attach[1] == move[1] == whole[1]
    assert move[0] == (whole[0] + whole[1]) / 2
    assert re.findall(r'<text x="(\d+)"[^>]*>(\w+)', drawn) == [
        ("8", "ADD"),
        ("24", "read"),
        ("24", "attach"),
        ("40", "move"),
    ]


def test_failed_step_and_call_have_another_colour() -> None:
    drawn = waterfall.svg(call(Step("read", 0.0, 0.02), Step("attach", 0.02, 0.08, error="no <driver>"), code=7))
    whole, read, attach = [colour for _, _, colour in bars(drawn)]
    assert whole == attach != read


def test_names_are_escaped() -> None:
    drawn = waterfall.svg(call(Step("a<b", 0.0, 0.1, about={"network": 'x & "y"'})))
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(drawn).iter(f"{SVG}text")]
    assert 'a<b x & "y"' in texts
