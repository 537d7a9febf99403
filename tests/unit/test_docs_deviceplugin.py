"""The device plugin's pages: each case occurs once, every test named exists, every selector is documented."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_docs_acceptance import PAGES_OF_CASES, TESTS, functions
from wirespeed import structs
from wirespeed.deviceplugin.config import SelectorKeys

TEXT = (TESTS.parent / "docs/deviceplugin.md").read_text()
CASES = (PAGES_OF_CASES / "deviceplugin-acceptance.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in CASES.splitlines()
    if re.match(r"\| \d+ \|", line)
]


DEFECTS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in CASES.partition("known to be wrong or missing")[2].splitlines()
    if re.match(r"\| (?!there|--)", line)
]


def test_every_case_is_there_once_and_in_order() -> None:
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 60)]


def test_every_known_defect_is_there() -> None:
    assert len(DEFECTS) == 13


@pytest.mark.parametrize("row", [*ROWS, *DEFECTS], ids=[row[0] for row in [*ROWS, *DEFECTS]])
def test_case_names_tests_that_exist_or_says_why_there_is_none(row: list[str]) -> None:
    *case, what, shown = row
    named = re.findall(r"`([a-z/_]+\.py)::(\w+)`", shown)
    assert named or shown.startswith("not here: "), case
    assert what
    for file, name in named:
        assert name in functions(file), f"{case}: {file} has no {name}"


def test_every_selector_is_told_of() -> None:
    section = TEXT.partition("## Selectors")[2].partition("## What a container gets")[0]
    assert [key for key in structs.keys_of(SelectorKeys) if f"`{key}`" not in section] == []
