"""Log lines: one per event, whatever the event contains."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wirespeed.agent.log import LineFormatter


def line(message: str, fields: dict[str, Any] | None = None, *, traceback: bool = False) -> str:
    record = logging.LogRecord("agent", logging.INFO, "", 0, message, (), sys.exc_info() if traceback else None)
    record.fields = fields or {}
    return LineFormatter().format(record)


def test_line_has_time_level_message_and_fields() -> None:
    shown = line("served", {"verb": "ADD", "ms": 1.234, "code": 0, "error": 'no "x"', "ifname": ""})
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO served verb=ADD ms=1\.23 code=0 error="no \\"x\\""', shown
    )


def test_traceback_stays_in_the_line() -> None:
    def fail() -> None:
        raise ValueError("two\nlines")

    try:
        fail()
    except ValueError:
        shown = line("failed", traceback=True)
    assert len(shown.splitlines()) == 1
    assert "ValueError: two\\nlines" in shown


@given(st.text(), st.text())
def test_nobody_can_write_a_line_of_their_own(message: str, value: str) -> None:
    assert len(line(message, {"container": value}).splitlines()) == 1
