"""Durations on the command line."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from docsite.commands import root, walk
from wirespeed.cli.durations import Duration, parse, text_of
from wirespeed.cli.main import main


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1),
        ("1.5s", 1.5),
        ("2", 2),
        ("0.25", 0.25),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        ("0", 0),
    ],
)
def test_a_duration_has_units_or_is_in_seconds(text: str, seconds: float) -> None:
    assert parse(text) == pytest.approx(seconds)


NO_DURATIONS = ["s", "-1s", "+1s", "1d", "1s2", "1,5s", "1.s", "1e3", "nan", "inf", "1S", "1hx"]


@pytest.mark.parametrize("text", [*NO_DURATIONS, "1 s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse(text)


@given(st.integers(0, 10**9))
def test_a_duration_is_shown_as_it_is_read(milliseconds: int) -> None:
    assert parse(text_of(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


SHOWN = {0: "0s", 0.1: "100ms", 90: "90s", 600: "10m", 604800: "168h"}


@pytest.mark.parametrize(("seconds", "text"), SHOWN.items())
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    assert text_of(seconds) == text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["top", "--interval", "2h"], "from 100ms to 1h"),
        (["agent", "log-level", "debug", "--for", "169h"], "from 1ms to 168h"),
        (["play", "--timeout", "0", "--", "/"], "of 1ms or more"),
        (["measure", "--trial", "99ms"], "of 100ms or more"),
        (["measure", "--pause", "-1s"], "of 0s or more"),
        (["uninstall-nodes", "--timeout", "500ms"], "of 1s or more"),
    ],
)
def test_all_commands_refuse_a_duration_alike(words: list[str], expected: str) -> None:
    done = CliRunner().invoke(main, words)
    (wrong,) = (word for word in words if word[-1:] in "smh0" and word[:1] in "-0123456789" and word[:2] != "--")
    assert done.exit_code == 2
    assert f"expected a duration {expected}, such as 500ms, 90s, 10m or 1h, got '{wrong}'" in done.stderr


def test_no_option_of_a_command_takes_seconds_in_another_way() -> None:
    parameters = [each for context in walk(root()) for each in context.command.params]
    assert [each.name for each in parameters if "SECONDS" in str(each.metavar).upper()] == []
    assert {each.name for each in parameters if isinstance(each.type, Duration)} == {
        *("interval", "seconds", "timeout", "trial", "pause")
    }
