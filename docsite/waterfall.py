"""A call of the agent as a waterfall: a row for each of its steps, drawn over the time of the call.

python -m docsite.waterfall < CALL > SVG    # the call as a line of the history of calls: make drawings
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

import msgspec

from wirespeed.state.calls import Call
from wirespeed.trace import depth

_ROW, _LEFT, _WIDTH, _RIGHT = 22, 330, 560, 80  # pixels
_COLOURS = ("#00897b", "#4db6ac", "#b2dfdb")  # of a step, by how deep it is in others
_FAILED = "#c62828"
_STYLE = "text{font:13px 'DejaVu Sans',sans-serif;fill:#263238}.time{text-anchor:end}.about{fill:#78909c}"


class _Row(NamedTuple):
    """A row: how deep it is in others, its name and what it is about, and its time in the call, in seconds."""

    depth: int
    name: str
    about: str
    began: float
    seconds: float
    failed: bool


def svg(call: Call) -> str:
    """Return the drawing: steps in the order in which they began, indented by what they are part of."""
    rows = list(_rows(call))
    width, height = _LEFT + _WIDTH + _RIGHT, _ROW * len(rows)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(f'{call.verb} of pod {call.pod}: {_milliseconds(call.seconds)}')}</title>",
            f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>',
            *(line for index, row in enumerate(rows) for line in _drawn(row, _ROW * index, _WIDTH / call.seconds)),
            "</svg>\n",
        ]
    )


def _rows(call: Call) -> Iterator[_Row]:
    yield _Row(0, f"{call.verb} {call.plugin}", call.pod, 0.0, call.seconds, bool(call.code))
    for step in call.steps:
        about = step.about.get("network", "")
        yield _Row(1 + depth(call.steps, step), step.name, about, step.began, step.seconds, bool(step.error))


def _drawn(row: _Row, y: int, scale: float) -> Iterator[str]:
    """Yield the SVG elements of a row at `y`; `scale` is in pixels per second."""
    colour = _FAILED if row.failed else _COLOURS[min(row.depth, len(_COLOURS) - 1)]
    about = f' <tspan class="about">{escape(row.about)}</tspan>' if row.about else ""
    place = f'x="{_LEFT + row.began * scale:.1f}" width="{max(1.0, row.seconds * scale):.1f}"'
    yield f'<text x="{8 + 16 * row.depth}" y="{y + 16}">{escape(row.name)}{about}</text>'
    yield f'<rect {place} y="{y + 4}" height="{_ROW - 8}" rx="2" fill="{colour}"/>'
    end = _LEFT + _WIDTH + _RIGHT - 8
    yield f'<text class="time" x="{end}" y="{y + 16}">{_milliseconds(row.seconds)}</text>'


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    sys.stdout.write(svg(msgspec.json.decode(sys.stdin.buffer.read(), type=Call)))
