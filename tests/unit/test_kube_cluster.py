"""Which pod a UID refers to, and errors of clusters that have no data."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed.cni.errors import Code, code_of
from wirespeed.kube.cluster import MIRROR, NotFoundError, UnavailableError, is_pod


def pod(uid: str | None, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "web", "uid": uid, "annotations": annotations or None}}


@pytest.mark.parametrize(
    ("uid", "value", "expected"),
    [
        ("u1", pod("u1"), True),
        ("u2", pod("u1"), False),
        ("", pod("u1"), True),  # no UID from the runtime
        ("u1", pod(""), True),  # no UID in the manifest
        ("u1", pod(None), True),
        ("hash", pod("u1", **{MIRROR: "hash"}), True),  # a static pod, by the UID of its file and of its mirror pod
        ("u1", pod("u1", **{MIRROR: "hash"}), True),
        ("other", pod("u1", **{MIRROR: "hash"}), False),
        ("other", pod("u1", other="other"), False),
    ],
)
def test_which_pod_a_uid_means(uid: str, value: dict[str, Any], expected: bool) -> None:
    assert is_pod(value, uid) is expected


def test_a_pod_without_annotations_is_no_mirror() -> None:
    assert not is_pod({"metadata": {"uid": "u1"}}, "u2")


def test_what_is_not_there_is_the_configurations_mistake_and_an_outage_is_none() -> None:
    assert code_of(NotFoundError("pod a/b")) == Code.INVALID_CONFIG
    assert code_of(UnavailableError("pod a/b")) == Code.TRY_AGAIN_LATER
