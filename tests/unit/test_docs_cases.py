"""sriov-acceptance.md and vhost-acceptance.md: each case occurs once, and every test named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SRIOV = [*map(str, range(1, 39)), "A5", "A6", "A7", "A8", "E1", "E2"]
VHOST = [*map(str, range(39, 51)), *(f"U{number}" for number in range(1, 12)), *(f"A{n}" for n in range(1, 10))]


def rows(document: str) -> list[list[str]]:
    """The rows of the table of cases: case, what it is, tests."""
    text = (TESTS.parent / "docs/development" / document).read_text()
    return [line.strip("|").split("|") for line in text.splitlines() if re.match(r"\| [AEU]?\d+ \|", line)]


@pytest.mark.parametrize(("document", "cases"), [("sriov-acceptance.md", SRIOV), ("vhost-acceptance.md", VHOST)])
def test_every_case_is_there_once_and_in_order(document: str, cases: list[str]) -> None:
    assert [row[0].strip() for row in rows(document)] == cases


@pytest.mark.parametrize("document", ["sriov-acceptance.md", "vhost-acceptance.md"])
def test_every_test_that_is_named_exists(document: str) -> None:
    for row in rows(document):
        named = re.findall(r"`([^`]+)::(\w+)`", row[2])
        assert named, row
        for file, function in named:
            assert re.search(rf"^def {function}\(", (TESTS / file).read_text(), re.MULTILINE), (file, function)
