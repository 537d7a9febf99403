"""Keys that are read case-insensitively."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed.keys import drop_unknown, normalize_case

KNOWN = ("deviceID", "mac", "skip")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"mac": 1, "other": 2}, {"mac": 1, "other": 2}),
        ({"DeviceId": 1, "MAC": 2}, {"deviceID": 1, "mac": 2}),
        ({"mac": 1, "Mac": 2}, {"mac": 2}),
        ({"Mac": 2, "mac": 1}, {"mac": 1}),  # the last one counts, whatever its case
        ({"mac": 1, "Mac": None}, {"mac": 1}),  # null is ignored if there is another value
        ({"Mac": None}, {"mac": None}),
        ({"\u212aip": 1, "\u017f\u212aip": 2}, {"\u212aip": 1, "skip": 2}),  # letters that case-fold to s and k
        ({"Other": 1, "other": 2}, {"Other": 1, "other": 2}),
    ],
)
def test_known_keys_are_found_in_any_case_and_others_are_left_alone(
    raw: dict[str, Any], found: dict[str, Any]
) -> None:
    assert normalize_case(raw, KNOWN) == found


def test_unknown_keys_are_told_and_left_out() -> None:
    told: list[str] = []
    raw = {"other": 1, "MAC": 2, "Other": None, "mac": None}
    assert drop_unknown(raw, KNOWN, told.append) == {"mac": 2}
    assert told == ["other", "Other"]
