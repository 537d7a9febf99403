"""Which pod of the node the agent reconciles next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from wirespeed.agent.follow import Follower
from wirespeed.node import Node


def test_a_pod_that_goes_and_comes_anew_while_it_is_taken_up_is_two_pods() -> None:
    config = SimpleNamespace(cluster=SimpleNamespace(manifests=""))
    follower, key = Follower(cast("Node", SimpleNamespace(config=config))), ("default", "p")

    def found(uid: str) -> dict[str, Any]:
        return {"metadata": {"uid": uid, "annotations": {}}, "spec": {}}

    follower._on_pod_change(key, found("old"))
    taken = follower._next_due()
    follower._on_pod_change(key, None)
    follower._on_pod_change(key, found("new"))
    anew = follower._next_due()
    assert taken is not None
    assert anew is not None
    assert [(of, pod.wanted, pod.running) for of, pod in (taken, anew)] == [
        (key, "old ", True),
        (key, "new ", True),
    ]
