"""Durations on the command line: 500ms, 90s, 10m, 1h30m, or a number of seconds."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}  # in seconds
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_EXAMPLES = "500ms, 90s, 10m or 1h"


def parse(text: str) -> float:
    """Return a duration in seconds: numbers with units as in Go and kubectl, or a number of seconds.

    Raises ValueError.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(text)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def text_of(seconds: float) -> str:
    """Return a duration in the largest unit in which it is a whole number: 100ms, 90s, 2h."""
    milliseconds = round(seconds * 1000)
    unit, size = next(
        (unit, round(size * 1000))
        for unit, size in reversed(UNITS.items())
        if milliseconds % round(size * 1000) == 0 and (milliseconds or unit == "s")
    )
    return f"{milliseconds // size}{unit}"


class Duration(click.ParamType[float]):
    """The type of an option or argument that is a duration, in seconds; with its bounds, which are included."""

    name = "duration"

    def __init__(self, lowest: float = 0.001, highest: float = float("inf")) -> None:
        self.lowest, self.highest = lowest, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = parse(str(value))
        except ValueError:
            seconds = float("nan")
        if not self.lowest <= seconds <= self.highest:
            self.fail(f"expected a duration {self._range()}, such as {_EXAMPLES}, got {value!r}", param, ctx)
        return seconds

    def _range(self) -> str:
        if self.highest == float("inf"):
            return f"of {text_of(self.lowest)} or more"
        return f"from {text_of(self.lowest)} to {text_of(self.highest)}"
