"""meta-acceptance.md and compatibility.md: each case occurs once, and every test named exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES_OF_CASES = TESTS.parent / "docs/development"


def rows(page: str) -> list[list[str]]:
    """The rows of the tables of cases: case, what it is, tests."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (PAGES_OF_CASES / page).read_text().splitlines()
        if re.match(r"\| [A-Z]\d", line)
    ]


PAGES = {"meta-acceptance.md": rows("meta-acceptance.md"), "compatibility.md": rows("compatibility.md")}
ROWS = [row for page in PAGES.values() for row in page]
CASES = {"A": 7, "B": 15, "C": 19, "D": 11, "E": 11, "F": 4, "G": 9, "H": 9, "W": 23}


@cache
def functions(file: str) -> set[str]:
    """The names of the test functions in a file."""
    return {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_case_is_there_once_and_in_order() -> None:
    expected = [f"{group}{number}" for group, count in CASES.items() for number in range(1, count + 1)]
    assert [row[0] for row in PAGES["meta-acceptance.md"]] == expected
    assert [row[0] for row in PAGES["compatibility.md"]] == [f"K{number}" for number in range(1, 24)]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_case_names_tests_that_exist_or_says_why_there_is_none(row: list[str]) -> None:
    case, what, shown = row
    named = re.findall(r"`([a-z/_]+\.py)::(\w+)`", shown)
    assert named or shown.startswith("not here: "), case
    assert what
    for file, name in named:
        assert name in functions(file), f"{case}: {file} has no {name}"
