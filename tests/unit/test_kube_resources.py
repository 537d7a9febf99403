"""Names of extended resources that the API server and the kubelet accept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.kube.resources import name_problem


@pytest.mark.parametrize(
    "resource",
    ["intel.com/a", "a/b", "acme.io/net_device-1", "acme.io/a.b", f"{'a' * 244}/{'b' * 63}", "1.example/9"],
)
def test_name_that_is_fine(resource: str) -> None:
    assert name_problem(resource) == ""


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ("cpu", "expected prefix/name"),
        ("", "expected prefix/name"),
        ("/a", "lower-case DNS name"),
        ("Intel.com/a", "lower-case DNS name"),
        ("intel..com/a", "lower-case DNS name"),
        ("-intel.com/a", "lower-case DNS name"),
        ("intel.com./a", "lower-case DNS name"),
        (f"{'a' * 245}/b", "at most 244 characters"),
        ("kubernetes.io/a", "the cluster's own"),
        ("devices.kubernetes.io/a", "the cluster's own"),
        ("requests.acme.io/a", "for quotas"),
        ("acme.io/", "at most 63"),
        ("acme.io/_", "first and last"),
        ("acme.io/-x", "first and last"),
        ("acme.io/x-", "first and last"),
        ("acme.io/a b", "letters, digits"),
        ("acme.io/a/b", "letters, digits"),
        ("acme.io/é", "letters, digits"),
        (f"acme.io/{'a' * 64}", "at most 63"),
    ],
)
def test_name_that_is_refused_with_the_reason(resource: str, reason: str) -> None:
    assert reason in name_problem(resource)


@given(st.text())
def test_any_text_is_taken_or_refused(resource: str) -> None:
    if not name_problem(resource):
        prefix, _, name = resource.partition("/")
        assert resource.isascii()
        assert prefix == prefix.lower()
        assert 1 <= len(name) <= 63
