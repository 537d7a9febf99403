"""The JSON that commands and the web page's API print has one convention of keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wirespeed.agent.hotplug import Changed
from wirespeed.agent.loglevel import Levels
from wirespeed.agent.web import Index
from wirespeed.cli.version import Version
from wirespeed.deviceplugin.pools import Explained
from wirespeed.doctor import Finding
from wirespeed.measure.report import Report
from wirespeed.observe.layout import Topology
from wirespeed.observe.rates import Interval
from wirespeed.observe.status import Status
from wirespeed.observe.why import Why
from wirespeed.provision.listing import ListedPf
from wirespeed.steps import ShownPlan

PRINTED = [
    Levels,
    Status,
    Why,
    Topology,
    Interval,
    Finding,
    Index,
    Report,
    Version,
    ListedPf,
    Explained,
    ShownPlan,
    Changed,
]
PAGE = Path(__file__).parents[2] / "docs/observe.md"
_CAMEL_CASE = re.compile(r"[a-z][a-z0-9]*([A-Z][a-z0-9]*)*")


def keys(schema: Any) -> Iterator[str]:
    """Yield the names of all properties of a JSON Schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for each in schema.values():
            yield from keys(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from keys(each)


@pytest.mark.parametrize("kind", PRINTED, ids=lambda kind: str(kind.__name__))
def test_keys_of_printed_json_are_in_camel_case(kind: type) -> None:
    found = set(keys(msgspec.json.schema(kind)))
    assert found
    assert {key for key in found if not _CAMEL_CASE.fullmatch(key)} == set()


@pytest.mark.parametrize("kind", [Status, Why, Topology, Interval], ids=lambda kind: str(kind.__name__))
def test_page_has_every_key_of_the_views(kind: type) -> None:
    named = set(re.findall(r"`([A-Za-z]+)`", PAGE.read_text()))
    assert set(keys(msgspec.json.schema(kind))) - named == set()
