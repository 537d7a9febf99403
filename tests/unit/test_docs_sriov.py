"""docs/sriov.md: every case is there once, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs/sriov.md").read_text()
ROWS = [line.strip("|").split("|") for line in DOCUMENT.splitlines() if re.match(r"\| [AE]?\d+ \|", line)]


def test_every_case_is_there_once_and_in_order() -> None:
    expected = [*map(str, range(1, 39)), "A5", "A6", "A7", "A8", "E1", "E2"]
    assert [row[0].strip() for row in ROWS] == expected


def test_every_test_that_is_named_exists() -> None:
    for row in ROWS:
        named = re.findall(r"`([^`]+)::(\w+)`", row[2])
        assert named, row
        for file, function in named:
            assert re.search(rf"^def {function}\(", (TESTS / file).read_text(), re.MULTILINE), (file, function)
