"""docs/*.md: every test that a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_docs_acceptance import TESTS, functions

PAGES = sorted((TESTS.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_tests_that_the_page_names_exist(page: Path) -> None:
    for file, name in re.findall(r"`([a-z/_]+\.py)::(\w+)`", page.read_text()):
        assert name in functions(file), f"{file} has no {name}"
