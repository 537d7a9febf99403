"""The documentation's tables list the keys that the code reads, with the code's defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from docsite import keys
from wirespeed import declared
from wirespeed.kube import dra
from wirespeed.kube.cluster import NETWORK_STATUS
from wirespeed.plugins.meta import networks, selection
from wirespeed.plugins.vhost import poddata

_TABLE = re.compile(r"<!-- keys: (?P<name>[^>]+) -->\n\|[^\n]*\n\|[-|]*\|\n(?P<rows>(?:\|[^\n]*\n)*)")


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table, by the table's name; cells are without backquotes."""
    found = {}
    for match in _TABLE.finditer("".join(path.read_text() for path in keys.PAGES)):
        rows = [row.strip("|").split("|") for row in match["rows"].splitlines()]
        found[match["name"]] = [[cell.strip() for cell in row] for row in rows]
    return found


@pytest.mark.parametrize("path", keys.PAGES, ids=lambda path: path.name)
def test_tables_are_what_the_code_declares(path: Path) -> None:
    text = path.read_text()
    assert keys.page(text) == text, "make docs"


@pytest.mark.parametrize("kind", [*keys.VALUES.values(), *keys.DEFAULTS.values()])
def test_every_declared_key_is_documented_or_says_what_it_takes(kind: type[msgspec.Struct]) -> None:
    assert [
        key
        for (key, text), field in zip(declared.texts(kind).items(), msgspec.structs.fields(kind), strict=True)
        if not text and not declared.cell(field.type)
    ] == []


def test_every_declared_table_is_in_a_page() -> None:
    assert {*keys.VALUES, *keys.DEFAULTS} <= set(tables())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dra", (dra.RESOURCE_NAME, dra.DEVICE_ID)),
        (
            "annotations",
            (
                selection.NETWORKS,
                selection.DEFAULT_NETWORK,
                networks.RESOURCE_NAME,
                NETWORK_STATUS,
                poddata.CONFIGURATION_DATA,
                poddata.MAPPED_DIR,
            ),
        ),
    ],
)
def test_a_table_has_the_keys_of_the_code(name: str, expected: Iterable[str]) -> None:
    assert [row[0] for row in tables()[name]] == [f"`{key}`" for key in expected]


def test_every_key_says_what_it_is_or_what_it_takes() -> None:
    assert all(any(row[1:]) for rows in tables().values() for row in rows)
