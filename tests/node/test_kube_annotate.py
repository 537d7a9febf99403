"""Concurrent writes to a pod's annotations."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer
from wirespeed.errors import Error, Kind
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import NotFoundError


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer) -> Iterator[ApiCluster]:
    made = ApiCluster(str(api.kubeconfig()), "n1", watch=False)
    yield made
    made.close()


def put_pod(api: ApiServer, **annotations: str) -> None:
    api.put(
        {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"namespace": "default", "name": "web", "uid": "u1", "annotations": annotations},
            "spec": {"nodeName": "n1", "containers": []},
        }
    )


def written(api: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = api.object("Pod", "default", "web")["metadata"]["annotations"]
    return found


def test_annotations_are_made_of_the_present_ones(api: ApiServer, cluster: ApiCluster) -> None:
    put_pod(api, a="1")
    cluster.annotate("default", "web", "u1", lambda present: {"b": present["a"] + "2"})
    assert written(api) == {"a": "1", "b": "12"}


def test_what_another_wrote_meanwhile_is_kept_and_counts(api: ApiServer, cluster: ApiCluster) -> None:
    put_pod(api, list="")
    seen = []

    def change(present: Mapping[str, str]) -> dict[str, str]:
        seen.append(present["list"])
        if len(seen) == 1:  # another client writes between our read and our write
            put_pod(api, list="theirs", more="x")
        return {"list": present["list"] + " ours"}

    cluster.annotate("default", "web", "u1", change)
    assert seen == ["", "theirs"]
    assert written(api) == {"list": "theirs ours", "more": "x"}


def test_of_many_writers_at_once_none_is_lost(api: ApiServer, cluster: ApiCluster) -> None:
    put_pod(api, list="")
    threads = [
        threading.Thread(
            target=cluster.annotate,
            args=("default", "web", "u1", lambda present, n=n: {"list": f"{present['list']}{n}"}),
        )
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written(api)["list"]) == ["0", "1", "2"]


def test_a_pods_successor_is_not_annotated(api: ApiServer, cluster: ApiCluster) -> None:
    put_pod(api)
    with pytest.raises(NotFoundError):
        cluster.annotate("default", "web", "u0", lambda _: {"a": "1"})
    assert written(api) == {}


def test_what_cannot_be_made_of_the_present_annotations_is_not_written(api: ApiServer, cluster: ApiCluster) -> None:
    put_pod(api, a="1")

    def refuse(present: Mapping[str, str]) -> dict[str, str]:
        raise Error(Kind.INVALID_CONFIG, "no")

    with pytest.raises(Error, match="no"):
        cluster.annotate("default", "web", "u1", refuse)
    assert written(api) == {"a": "1"}
