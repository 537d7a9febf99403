"""docs/security.md: each threat names what stops it, and a test; those without a test are set apart."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_docs_acceptance import TESTS

TEXT = (TESTS.parent / "docs/security.md").read_text()
HELD, _, UNTESTED = TEXT.partition("\n## Threats without a test\n")


def rows(text: str, columns: str) -> list[list[str]]:
    """The rows of the tables with these columns."""
    tables = re.findall(rf"^\| {re.escape(columns)} \|\n\|[-|]*\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()
    ]


ROWS = rows(HELD, "threat | what stops it | held by")


def test_both_kinds_of_threats_are_there() -> None:
    assert len(ROWS) >= 50
    assert len(rows(UNTESTED, "threat | what there is")) >= 10
    assert "::" not in UNTESTED


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_threat_is_stopped_by_something_that_a_test_holds(row: list[str]) -> None:
    _, stops, shown = row
    assert stops
    assert re.search(r"`[a-z/_]+\.py::\w+`", shown)
