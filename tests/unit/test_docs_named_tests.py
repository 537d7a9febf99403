"""docs: every test that a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_docs_acceptance import TESTS, functions

DOCS = TESTS.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_tests_that_the_page_names_exist(page: Path) -> None:
    for file, name in re.findall(r"`([a-z/_]+\.py)::(\w+)`", page.read_text()):
        assert name in functions(file), f"{file} has no {name}"
