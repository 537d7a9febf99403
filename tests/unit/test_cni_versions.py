"""Versions of the CNI specification."""

from __future__ import annotations

import json

import pytest

from wirespeed.cni import versions
from wirespeed.errors import Error, Kind


def test_versions_are_compared_in_their_order() -> None:
    assert versions.at_least("1.1.0", "1.1.0")
    assert versions.at_least("1.0.0", "0.4.0")
    assert not versions.at_least("0.3.1", "0.4.0")
    assert not versions.at_least("9.9.9", "0.3.0")


@pytest.mark.parametrize(
    ("version", "listed", "used"),
    [
        ("0.4.0", None, "0.4.0"),
        ("0.4.0", ["1.0.0", "0.3.1"], "1.0.0"),
        ("1.0.0", ["0.3.1"], "1.0.0"),
        (None, ["0.3.1", "1.1.0", "2.0.0"], "1.1.0"),
        ("2.0.0", ["0.4.0"], "0.4.0"),
        ("0.2.0", None, "0.2.0"),
        ("0.1.0", ["0.2.0"], "0.2.0"),
        (None, None, "0.1.0"),
        ("", None, "0.1.0"),
        (None, [], "0.1.0"),
    ],
)
def test_highest_known_version_of_a_configuration_is_used(version: object, listed: object, used: str) -> None:
    assert versions.highest(version, listed) == used


def test_no_known_version_is_incompatible() -> None:
    with pytest.raises(Error, match=r"got \['2\.1\.0', '2\.0\.0'\]") as refused:
        versions.highest("2.0.0", ["2.1.0"])
    assert refused.value.kind == Kind.INCOMPATIBLE_VERSION


@pytest.mark.parametrize(
    ("given", "spoken"), [("0.4.0", "0.4.0"), ("7.0.0", "1.1.0"), (None, "1.1.0"), ([], "1.1.0")]
)
def test_version_is_answered_in_the_callers_version_if_it_is_known(given: object, spoken: str) -> None:
    assert json.loads(versions.answer({"cniVersion": given})) == {
        "cniVersion": spoken,
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }
