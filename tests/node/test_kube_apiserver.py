"""The cluster with an API server, and the failures of the connection between them."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import NETWORKS, PATIENCE, PODS, ApiServer
from wirespeed.cni.errors import Code, code_of
from wirespeed.errors import Error, Kind
from wirespeed.kube import watch
from wirespeed.kube.api import Timeouts
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import MIRROR, NETWORK_STATUS, NotFoundError, UnavailableError
from wirespeed.kube.retry import RetryPolicy

WEB = "/api/v1/namespaces/default/pods/web"
NET = "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/net"
STATUS = [{"name": "default/net", "interface": "net1"}]

POLICY = RetryPolicy()
HURRIED = RetryPolicy(first=Timeouts(connect=0.5, read=0.75, total=1.0), longest=1.5, pauses=(0.01, 0.1))

Factory = Callable[..., ApiCluster]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer) -> Iterator[Factory]:
    """Make clusters for the node n1, whose caches are filled and whose watches are open.

    After the test each is closed: in time, and without leaving a thread or a connection.
    """
    made: list[ApiCluster] = []

    def make(
        kubeconfig: Path | str | None = None, *, watch: bool = True, wait: bool = True, policy: RetryPolicy = POLICY
    ) -> ApiCluster:
        where = api.kubeconfig() if kubeconfig is None else kubeconfig
        made.append(ApiCluster(str(where), "n1", watch=watch, policy=policy))
        if watch and wait:
            assert made[-1].wait_synced(PATIENCE)
            api.wait(lambda: len(api.watches) == 2 * len(made))
            api.forget()
        return made[-1]

    yield make
    for each in made:
        began = time.monotonic()
        each.close()
        assert time.monotonic() - began < 2.0
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("watch ")]
    api.wait(lambda: api.connections == 0)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches are restarted without a pause."""
    monkeypatch.setattr(watch, "_BACKOFF", (0.001, 0.01))


def pod(name: str = "web", node: str = "n1", *, uid: str = "u1", **annotations: str) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "uid": uid, "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }


def network(name: str = "net", config: str = "{}") -> dict[str, Any]:
    return {
        "kind": "NetworkAttachmentDefinition",
        "apiVersion": "k8s.cni.cncf.io/v1",
        "metadata": {"name": name},
        "spec": {"config": config},
    }


def until(cluster: ApiCluster, name: str, wanted: str | None) -> None:
    """Wait until the cached pod has the annotation a=`wanted`, or, if that is None, until it is gone."""

    def reached(pods: Mapping[tuple[str, str], dict[str, Any]]) -> bool:
        found = pods.get(("default", name))
        return wanted == (found["metadata"]["annotations"].get("a") if found else None)

    assert cluster._pods.wait_for(reached, PATIENCE)


def written(api: ApiServer, name: str = "web") -> Any:
    """The network-status in the API server."""
    annotations = api.object("Pod", "default", name)["metadata"].get("annotations") or {}
    return json.loads(annotations.get(NETWORK_STATUS, "null"))


# What is requested from the API server, and what is cached


def test_pods_and_networks_come_from_memory_and_status_is_one_request(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(a="1"))
    api.put(network(config='{"type": "bridge"}'))
    mine = cluster()
    assert mine.pod("default", "web", "u1")["metadata"]["annotations"] == {"a": "1"}
    assert mine.network("default", "net")["spec"] == {"config": '{"type": "bridge"}'}
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 1}
    assert written(api) == STATUS
    assert api.object("Pod", "default", "web")["metadata"]["annotations"]["a"] == "1"


def test_only_pods_of_this_node_are_kept(api: ApiServer, cluster: Factory) -> None:
    api.put(pod("here"))
    api.put(pod("there", "n2"))
    mine = cluster()
    assert mine._pods.get("default", "here")
    assert mine._pods.get("default", "there") is None


def test_long_lists_come_in_pages(api: ApiServer, cluster: Factory) -> None:
    for number in range(1001):
        api.put(network(f"net{number}"))
    mine = cluster(wait=False)
    assert mine.wait_synced(PATIENCE)
    assert all(mine._networks.get("default", f"net{number}") for number in range(1001))
    assert api.counts()[f"LIST {NETWORKS}"] == 3


def test_pages_that_expired_are_begun_again(api: ApiServer, cluster: Factory, hurried: None) -> None:
    for number in range(501):
        api.put(network(f"net{number}"))
    held = api.fault("LIST", NETWORKS, hold=True)
    mine = cluster(wait=False)
    api.wait(lambda: held.met == 1)
    second = api.fault("LIST", NETWORKS, hold=True, times=1)
    held.times = 1
    held.release()
    api.wait(lambda: second.met == 1)
    api.compact()
    second.release()
    assert mine.wait_synced(PATIENCE)
    assert mine._networks.get("default", "net500")
    assert api.counts()[f"LIST {NETWORKS}"] == 4


def test_changes_come_by_the_watch(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(a="1"))
    mine = cluster()
    api.put(pod(a="2"))
    until(mine, "web", "2")
    api.put(pod("other", a="3"))
    until(mine, "other", "3")
    api.delete("Pod", "default", "web")
    until(mine, "web", None)
    api.put(pod("other", "n2", a="4"))  # it no longer matches the field selector
    until(mine, "other", None)
    assert not api.counts()


def test_a_pod_that_the_watch_has_not_told_of_is_asked_for(api: ApiServer, cluster: Factory) -> None:
    api.fault("WATCH", PODS, hold=True)
    mine = cluster(wait=False)
    assert mine.wait_synced(PATIENCE)
    api.put(pod(a="new"))
    assert mine.pod("default", "web", "u1")["metadata"]["annotations"] == {"a": "new"}
    assert api.counts()[f"GET {WEB}"] == 1


def test_a_cached_pod_of_another_uid_is_not_taken(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(uid="old"))
    api.fault("WATCH", PODS, hold=True)
    mine = cluster(wait=False)
    assert mine.wait_synced(PATIENCE)
    api.put(pod(uid="new", a="2"))
    assert mine.pod("default", "web", "new")["metadata"]["annotations"] == {"a": "2"}
    assert mine.pod("default", "web", "")["metadata"]["uid"] == "new"  # without a uid, the current pod is returned
    with pytest.raises(NotFoundError) as caught:
        mine.pod("default", "web", "third")
    assert caught.value.kind == Kind.INVALID_CONFIG
    assert caught.value.msg == "pod default/web: its UID in the API server is new, not third"


def test_what_is_not_there_is_named(api: ApiServer, cluster: Factory) -> None:
    mine = cluster()
    for call, what in (
        (lambda: mine.pod("default", "web", "u1"), "pod default/web"),
        (lambda: mine.network("default", "net"), "NetworkAttachmentDefinition default/net"),
        (lambda: mine.set_network_status("default", "web", "u1", STATUS), "pod default/web"),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.msg == f"{what}: the API server has no such object"


def test_without_watch_each_lookup_is_a_request(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    api.put(network())
    mine = cluster(watch=False)
    for _ in range(2):
        mine.pod("default", "web", "u1")
        mine.network("default", "net")
    assert api.counts() == {f"GET {WEB}": 2, f"GET {NET}": 2}
    assert api.connections == 1


def test_many_calls_at_once_are_all_served(
    api: ApiServer, cluster: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(64):
        api.put(pod(f"web{number}"))
    mine = cluster()
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda n: mine.set_network_status("default", f"web{n}", "u1", STATUS), range(64)))
    assert all(written(api, f"web{number}") == STATUS for number in range(64))
    assert sum(api.counts().values()) == 64
    assert not caplog.records  # urllib3 would warn about discarded connections


def test_names_are_no_path(api: ApiServer, cluster: Factory) -> None:
    mine = cluster(watch=False)
    with pytest.raises(NotFoundError):
        mine.pod("default", "web/status?x=1")
    assert api.requests[0].path == f"{WEB}/status?x=1"
    assert not api.requests[0].query


# network-status: the right pod, and other writers


def test_status_of_a_pod_that_was_replaced_does_not_reach_its_successor(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(uid="old"))
    held = api.fault("WATCH", PODS, hold=True)
    mine = cluster(wait=False)
    assert mine.wait_synced(PATIENCE)
    api.wait(lambda: held.met == 1)
    api.delete("Pod", "default", "web")
    api.put(pod(uid="new"))
    with pytest.raises(NotFoundError) as caught:
        mine.set_network_status("default", "web", "old", STATUS)
    assert caught.value.msg == "pod default/web: its UID in the API server is new, not old"
    assert written(api) is None


@pytest.mark.parametrize("watched", [True, False])
def test_a_static_pods_status_goes_to_its_mirror(api: ApiServer, cluster: Factory, watched: bool) -> None:
    api.put(pod(uid="mirror", **{MIRROR: "hash"}))
    mine = cluster(watch=watched)
    assert mine.pod("default", "web", "hash")["metadata"]["uid"] == "mirror"
    mine.set_network_status("default", "web", "hash", STATUS)
    assert written(api) == STATUS


def test_a_mirror_that_was_made_anew_gets_the_status_too(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(uid="mirror1", **{MIRROR: "hash"}))
    api.fault("WATCH", PODS, hold=True)
    mine = cluster(wait=False)
    assert mine.wait_synced(PATIENCE)
    api.delete("Pod", "default", "web")
    api.put(pod(uid="mirror2", **{MIRROR: "hash"}))
    mine.set_network_status("default", "web", "hash", STATUS)
    assert written(api) == STATUS


def test_a_conflict_with_another_writer_is_tried_again(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    mine = cluster()
    api.fault("PATCH", "/status", status=409, times=4)
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts()[f"PATCH {WEB}/status"] == 5
    assert written(api) == STATUS


def test_conflicts_without_end_are_given_up(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    mine = cluster(policy=HURRIED)
    api.fault("PATCH", "/status", status=409, message="it has been modified")
    with pytest.raises(UnavailableError) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    times = api.counts()[f"PATCH {WEB}/status"]
    assert times > 5
    assert caught.value.msg == (
        "network-status of pod default/web: the API server cannot answer now: "
        f"409 it has been modified (after {times} attempts)"
    )


# Errors with a status, by code and text


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, Code.POLICY, "the API server forbids it: 403 because"),
        (422, Code.POLICY, "the API server refuses: 422 because"),
        (400, Code.POLICY, "the API server refuses: 400 because"),
        (429, Code.TRY_AGAIN_LATER, "the API server cannot answer now: 429 because"),
        (500, Code.TRY_AGAIN_LATER, "the API server cannot answer now: 500 because"),
        (503, Code.TRY_AGAIN_LATER, "the API server cannot answer now: 503 because"),
        (504, Code.TRY_AGAIN_LATER, "the API server cannot answer now: 504 because"),
    ],
)
def test_refusals(api: ApiServer, cluster: Factory, status: int, code: Code, text: str) -> None:
    api.put(pod())
    mine = cluster(watch=False)
    api.fault("", "", status=status, message="because")
    with pytest.raises(Error) as caught:
        mine.pod("default", "web", "u1")
    assert (code_of(caught.value), caught.value.msg) == (code, f"pod default/web: {text}")
    with pytest.raises(Error) as caught:
        mine.network("default", "net")
    assert (code_of(caught.value), caught.value.msg) == (code, f"NetworkAttachmentDefinition default/net: {text}")
    api.heal()
    api.fault("PATCH", "", status=status, message="because")
    with pytest.raises(Error) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    assert (code_of(caught.value), caught.value.msg) == (code, f"network-status of pod default/web: {text}")


def test_a_server_that_is_busy_is_asked_again_when_it_says(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    mine = cluster()
    api.fault("PATCH", "", status=429, retry_after=0, times=3)
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 4}
    assert written(api) == STATUS


def test_a_server_that_is_busy_for_longer_than_a_pod_waits_is_not_waited_for(
    api: ApiServer, cluster: Factory
) -> None:
    api.put(pod())
    mine = cluster()
    api.fault("PATCH", "", status=503, retry_after=7)
    with pytest.raises(UnavailableError, match="the API server cannot answer now: 503"):
        mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 1}


def test_an_answer_that_is_not_the_apis_is_told(api: ApiServer, cluster: Factory, tmp_path: Path) -> None:
    config = json.loads(api.kubeconfig().read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        (tmp_path / "other").write_text(json.dumps(config))
        mine = cluster(tmp_path / "other", watch=False)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(mine.pod, "default", "web")
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n<html>hello")
                with pytest.raises(UnavailableError) as caught:
                    asked.result(PATIENCE)
    assert caught.value.msg.startswith("pod default/web: no answer from the API server: http://127.0.0.1:")
    assert "JSON is malformed" in caught.value.msg


# No answer: a pod never waits long


def test_a_server_that_says_nothing_is_left_after_seconds(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    mine = cluster()
    api.fault("PATCH", "", hold=True)
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    assert 3.9 < time.monotonic() - began < 6.0
    assert caught.value.kind == Kind.TRY_AGAIN
    assert caught.value.msg == (
        f"network-status of pod default/web: no answer from the API server: {api.url}: "
        "Read timed out. (read timeout=4.0)"
    )


def test_an_answer_that_drips_is_left_after_seconds(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(a="x" * 10000))
    mine = cluster(watch=False, policy=HURRIED)
    api.fault("GET", "", after=0, drip=0.01)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="the answer takes too long"):
        mine.pod("default", "web")
    assert time.monotonic() - began < 6.0
    api.heal()
    assert mine.pod("default", "web")["metadata"]["uid"] == "u1"


def test_a_host_that_does_not_take_connections_is_left_after_seconds(
    api: ApiServer, cluster: Factory, tmp_path: Path
) -> None:
    config = json.loads(api.kubeconfig().read_text())
    # it accepts no connection, so handshakes never complete
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{full.getsockname()[1]}"
        (tmp_path / "other").write_text(json.dumps(config))
        mine = cluster(tmp_path / "other", watch=False, policy=HURRIED)
        for _ in range(3):  # for the last ones, even TCP does not connect
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="timed out"):
                mine.pod("default", "web")
            assert time.monotonic() - began < 6.0


@pytest.mark.parametrize("after", [None, 20])
def test_a_connection_that_breaks_once_is_no_failure(api: ApiServer, cluster: Factory, after: int | None) -> None:
    api.put(pod())
    mine = cluster(watch=False)
    mine.pod("default", "web")
    api.fault("GET", WEB, cut=True, after=after, times=1)
    if after is None:
        assert mine.pod("default", "web")["metadata"]["uid"] == "u1"
    else:
        with pytest.raises(UnavailableError, match="no answer from the API server"):
            mine.pod("default", "web")


def test_connections_that_always_break_are_told(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    mine = cluster()
    api.fault("PATCH", "", cut=True)
    with pytest.raises(UnavailableError) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    assert caught.value.msg.endswith(f"{api.url}: Remote end closed connection without response")
    assert api.counts()[f"PATCH {WEB}/status"] == 2


def test_while_the_server_is_down_what_is_known_is_given_and_status_is_refused(
    api: ApiServer, cluster: Factory
) -> None:
    api.put(pod(a="1"))
    api.put(network())
    mine = cluster()
    api.stop()
    assert mine.pod("default", "web", "u1")["metadata"]["annotations"] == {"a": "1"}
    assert mine.network("default", "net")
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    assert caught.value.kind == Kind.TRY_AGAIN
    assert caught.value.msg == (
        f"network-status of pod default/web: no answer from the API server: {api.url}: "
        "Failed to establish a new connection: [Errno 111] Connection refused"
    )
    with pytest.raises(UnavailableError, match="pod default/unknown: no answer from the API server"):
        mine.pod("default", "unknown")
    assert time.monotonic() - began < 2.0
    api.start()
    mine.set_network_status("default", "web", "u1", STATUS)
    assert written(api) == STATUS


# The watch continues after any failure


def test_a_restarted_server_that_kept_its_history_is_not_listed_again(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(a="1"))
    mine = cluster()
    api.stop()
    api.put(pod(a="2"))
    api.put(pod("other", a="3"))
    api.start()
    until(mine, "web", "2")
    until(mine, "other", "3")
    assert not [request for request in api.requests if request.verb == "LIST"]


def test_a_restarted_server_that_lost_its_history_is_listed_again(api: ApiServer, cluster: Factory) -> None:
    api.put(pod(a="1"))
    api.put(pod("gone", a="1"))
    mine = cluster()
    api.stop()
    api.put(pod(a="2"))
    api.delete("Pod", "default", "gone")
    api.put(pod("other", a="3"))
    api.compact()
    api.start()
    until(mine, "other", "3")
    until(mine, "web", "2")
    until(mine, "gone", None)
    api.wait(lambda: len(api.watches) == 2)
    api.put(pod(a="4"))
    until(mine, "web", "4")
    assert api.counts()[f"LIST {PODS}"] == 1


@pytest.mark.parametrize("midline", [False, True])
def test_a_watch_that_is_cut_goes_on_where_it_was(api: ApiServer, cluster: Factory, midline: bool) -> None:
    api.put(pod(a="1"))
    mine = cluster()
    api.put(pod(a="2"))
    until(mine, "web", "2")
    held = api.fault("WATCH", PODS, hold=True, times=1)
    api.cut_watches(midline=midline)
    api.wait(lambda: held.met == 1)
    api.put(pod(a="3"))
    api.put(pod("other", a="4"))
    held.release()
    until(mine, "other", "4")
    until(mine, "web", "3")
    assert not [request for request in api.requests if request.verb == "LIST"]


def test_a_watch_that_the_server_ends_is_begun_again(api: ApiServer, cluster: Factory, hurried: None) -> None:
    mine = cluster()
    for number in range(3):
        api.end_watches()
        api.wait(lambda: len(api.watches) == 2)
        api.put(pod(a=str(number)))
        until(mine, "web", str(number))
    assert not [request for request in api.requests if request.verb == "LIST"]


def test_a_watch_asks_the_server_to_end_it_and_for_bookmarks(api: ApiServer, cluster: Factory) -> None:
    cluster(wait=False)
    api.wait(lambda: len(api.watches) == 2)
    (asked,) = (request for request in api.requests if request.verb == "WATCH" and request.path == PODS)
    assert 300 <= int(asked.query["timeoutSeconds"]) <= 600
    assert asked.query["allowWatchBookmarks"] == "true"
    assert asked.query["fieldSelector"] == "spec.nodeName=n1"


@pytest.mark.parametrize("bookmarked", [True, False])
def test_bookmarks_save_a_new_list(api: ApiServer, cluster: Factory, bookmarked: bool) -> None:
    api.put(pod(a="1"))
    mine = cluster()
    for number in range(20):
        api.put(pod("elsewhere", "n2", a=str(number)))  # not events of this watch
    if bookmarked:
        last = api.object("Pod", "default", "elsewhere")["metadata"]["resourceVersion"]
        api.bookmark()
        with mine._pods._changed:
            assert mine._pods._changed.wait_for(lambda: mine._pods._version == last, PATIENCE)
    api.compact()
    api.cut_watches()
    api.wait(lambda: PODS in api.watches)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert api.counts()[f"LIST {PODS}"] == (0 if bookmarked else 1)


@pytest.mark.parametrize("status", [410, 403, 404])
def test_a_watch_that_is_refused_is_listed_again(
    api: ApiServer, cluster: Factory, hurried: None, status: int
) -> None:
    api.put(pod(a="1"))
    mine = cluster()
    refused = api.fault("WATCH", PODS, status=status, times=2)
    api.cut_watches()
    api.wait(lambda: refused.met == 2)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert api.counts()[f"LIST {PODS}"] >= 1


@pytest.mark.parametrize("status", [401, 429, 500, 503, 504])
def test_a_busy_server_is_not_listed_again(api: ApiServer, cluster: Factory, hurried: None, status: int) -> None:
    mine = cluster()
    busy = api.fault("WATCH", PODS, status=status, times=6)
    api.cut_watches()
    api.wait(lambda: busy.met == 6)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert not [request for request in api.requests if request.verb == "LIST"]


def test_a_lasting_failure_is_told_once_and_its_end_too(
    api: ApiServer, cluster: Factory, hurried: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="wirespeed")
    mine = cluster()
    busy = api.fault("WATCH", PODS, status=500, message="no etcd", times=10)
    api.cut_watches()
    api.wait(lambda: busy.met == 10)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert [record.message for record in caplog.records if PODS in record.message] == [
        f"watch of {PODS}: 500 no etcd; using the objects in the cache",
        f"watch of {PODS}: it works again",
    ]


def test_a_watch_that_breaks_once_is_not_worth_a_word(
    api: ApiServer, cluster: Factory, hurried: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="wirespeed")
    mine = cluster()
    api.cut_watches()
    api.wait(lambda: len(api.watches) == 2)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert not caplog.records


def test_failures_in_a_row_are_further_and_further_apart(
    api: ApiServer, cluster: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def jitter(seconds: float) -> float:
        if threading.current_thread().name == f"watch {PODS}" and seconds != watch._DURATION:
            pauses.append(round(seconds, 1))
        return 0.0

    mine = cluster()
    monkeypatch.setattr(watch, "jitter", jitter)
    failing = api.fault("WATCH", PODS, status=500, times=10)
    api.cut_watches()
    api.wait(lambda: failing.met == 10)
    api.put(pod(a="2"))
    until(mine, "web", "2")
    assert pauses[-10:] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0, 30.0]
    api.cut_watches()
    api.wait(lambda: PODS in api.watches)
    assert pauses[-1] == 0.4  # reset by the events in between


def test_a_cluster_without_the_networks_resource_serves_pods(
    api: ApiServer, cluster: Factory, hurried: None
) -> None:
    api.put(pod(a="1"))
    api.fault("LIST", NETWORKS, status=404, message="the server could not find the requested resource")
    api.fault("GET", NET, status=404, message="the server could not find the requested resource")
    mine = cluster(wait=False)
    until(mine, "web", "1")
    assert not mine.wait_synced(0.1)
    with pytest.raises(NotFoundError):
        mine.network("default", "net")
    api.heal()  # the resource is installed later
    assert mine.wait_synced(PATIENCE)


# Whether the API server answers


def test_a_cluster_that_is_followed_is_not_asked_whether_it_answers(api: ApiServer, cluster: Factory) -> None:
    mine = cluster()
    mine.check()
    assert not api.counts()


def test_a_cluster_that_is_not_followed_is_asked(api: ApiServer, cluster: Factory) -> None:
    cluster(watch=False).check()
    assert api.counts() == {"GET /version": 1}


def test_a_cluster_that_does_not_answer_is_told(api: ApiServer, cluster: Factory) -> None:
    mine = cluster(watch=False)
    api.fault("GET", "/version", status=503, message="because")
    with pytest.raises(UnavailableError) as caught:
        mine.check()
    assert caught.value.msg == "pods and networks: the API server cannot answer now: 503 because"
    api.stop()
    with pytest.raises(UnavailableError, match="pods and networks: no answer from the API server: https:"):
        mine.check()


def test_a_cluster_whose_watch_fails_is_asked_until_it_works(
    api: ApiServer, cluster: Factory, hurried: None
) -> None:
    mine = cluster()
    broken = api.fault("WATCH", NETWORKS, status=500)
    api.cut_watches()
    api.wait(lambda: broken.met == 2)
    mine.check()
    assert api.counts()["GET /version"] == 1
    api.heal()
    api.wait(lambda: len(api.watches) == 2)
    api.put(network())
    assert mine._networks.wait_for(lambda networks: ("default", "net") in networks, PATIENCE)
    assert mine._networks.is_healthy


# Credentials that change at runtime


def test_a_token_file_is_read_again_when_it_changes(api: ApiServer, cluster: Factory, tmp_path: Path) -> None:
    api.put(pod())
    token = tmp_path / "token"
    token.write_text(api.token() + "\n")
    mine = cluster(api.kubeconfig(tokenFile=str(token)))
    api.revoke_all()
    token.write_text(api.token() + "\n")
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 1}


def test_a_token_file_is_found_beside_the_kubeconfig(api: ApiServer, cluster: Factory) -> None:
    kubeconfig = api.kubeconfig(tokenFile="mytoken")
    (kubeconfig.parent / "mytoken").write_text(api.token())
    cluster(kubeconfig)


def test_the_service_accounts_token_is_read_again_when_it_changes(
    api: ApiServer, cluster: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put(pod())
    account = tmp_path / "serviceaccount"
    _fill_account(account, "1", api)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
    mine = cluster("")
    mine.set_network_status("default", "web", "u1", STATUS)
    api.revoke_all()
    _fill_account(account, "2", api)
    api.forget()
    mine.set_network_status("default", "web", "u1", [])
    assert api.counts() == {f"PATCH {WEB}/status": 1}
    assert written(api) == []
    api.cut_watches()
    api.put(pod(a="2"))
    until(mine, "web", "2")


def _fill_account(account: Path, number: str, api: ApiServer) -> None:
    """Update the files as the kubelet does: they are links through a directory link that is replaced atomically."""
    folder = account / f"..{number}"
    folder.mkdir(parents=True)
    (folder / "token").write_text(api.token())
    shutil.copy(api.ca_file, folder / "ca.crt")
    (account / "..new").symlink_to(folder.name)
    (account / "..new").rename(account / "..data")
    for name in ("token", "ca.crt"):
        if not (account / name).exists():
            (account / name).symlink_to(f"..data/{name}")


def test_a_kubeconfig_that_is_written_anew_is_read_again(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    kubeconfig = api.kubeconfig()
    mine = cluster(kubeconfig)
    api.revoke_all()
    api.kubeconfig().replace(kubeconfig)
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 1}


def test_a_kubeconfig_that_cannot_be_read_leaves_what_was_before(
    api: ApiServer, cluster: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    api.put(pod())
    kubeconfig = api.kubeconfig()
    mine = cluster(kubeconfig)
    kubeconfig.write_text("half a")
    for number in range(3):
        mine.set_network_status("default", "web", "u1", [{"name": str(number)}])
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith(f"API server from the kubeconfig {kubeconfig}: ")
    assert caplog.records[0].message.endswith("; still using the previous credentials")
    kubeconfig.unlink()
    mine.set_network_status("default", "web", "u1", STATUS)
    api.revoke_all()
    api.kubeconfig().replace(kubeconfig)
    mine.set_network_status("default", "web", "u1", [])
    assert written(api) == []


def test_a_token_that_expired_is_told(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    kubeconfig = api.kubeconfig()
    mine = cluster(kubeconfig)
    api.revoke_all()
    with pytest.raises(UnavailableError) as caught:
        mine.set_network_status("default", "web", "u1", STATUS)
    assert caught.value.kind == Kind.TRY_AGAIN
    assert caught.value.msg == (
        "network-status of pod default/web: the API server does not accept the credentials of the "
        f"kubeconfig {kubeconfig}: 401 Unauthorized"
    )


def test_a_client_certificate_is_read_again_when_it_changes(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    certificate, key = api.certificate()
    mine = cluster(api.kubeconfig(**{"client-certificate": str(certificate), "client-key": str(key)}))
    mine.set_network_status("default", "web", "u1", STATUS)
    api.forget()
    api.revoke_all()
    api.certificate()
    mine.set_network_status("default", "web", "u1", [])
    assert api.counts() == {f"PATCH {WEB}/status": 1}
    api.cut_watches()
    api.put(pod(a="2"))
    until(mine, "web", "2")


def test_certificates_inside_the_kubeconfig_outlive_the_librarys_files(
    api: ApiServer, cluster: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    api.put(pod())
    certificate, key = api.certificate()
    data = {
        "client-certificate-data": _encoded(certificate),
        "client-key-data": _encoded(key),
    }
    mine = cluster(api.kubeconfig(**data))
    mine.set_network_status("default", "web", "u1", STATUS)
    files = list((tmp_path / "tmp").iterdir())
    assert files
    for file in files:  # as a program that cleans up /tmp does
        file.unlink()
    api.cut_watches()
    api.put(pod(a="2"))
    until(mine, "web", "2")
    mine.set_network_status("default", "web", "u1", [])
    assert written(api) == []


def _encoded(path: Path) -> str:
    import base64

    return base64.b64encode(path.read_bytes()).decode()


def test_a_program_that_gives_credentials_is_asked_again_when_they_are_refused(
    api: ApiServer, cluster: Factory, tmp_path: Path
) -> None:
    api.put(pod())
    token, program = tmp_path / "token", tmp_path / "program"
    version = "client.authentication.k8s.io/v1"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "{{\\"apiVersion\\": \\"{version}\\", \\"kind\\": \\"ExecCredential\\", '
        f'\\"status\\": {{\\"token\\": \\"$(cat {token})\\"}}}}"\n'
    )
    program.chmod(0o755)
    token.write_text(api.token())
    mine = cluster(api.kubeconfig(exec={"apiVersion": version, "command": str(program), "args": []}))
    mine.set_network_status("default", "web", "u1", STATUS)
    assert api.counts() == {f"PATCH {WEB}/status": 1}
    api.revoke_all()
    token.write_text(api.token())
    mine.set_network_status("default", "web", "u1", [])
    assert api.counts() == {f"PATCH {WEB}/status": 3}  # the second one was rejected
    assert written(api) == []


class Proxy(socketserver.BaseRequestHandler):
    """The CONNECT method of an HTTP proxy."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        host, _, port = head.split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as other:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._pass, args=(other, self.request))
            back.start()
            self._pass(self.request, other)
            back.join()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one of the two has disconnected
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_a_proxy_of_the_kubeconfig_is_gone_through(
    api: ApiServer, cluster: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    api.put(pod())
    config = json.loads(api.kubeconfig().read_text())
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        serving = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        config["clusters"][0]["cluster"]["proxy-url"] = f"http://127.0.0.1:{proxy.server_address[1]}"
        (tmp_path / "proxied").write_text(json.dumps(config))
        mine = cluster(tmp_path / "proxied")
        mine.set_network_status("default", "web", "u1", STATUS)
        assert written(api) == STATUS
        mine.close()
        api.wait(lambda: api.connections == 0)
        proxy.shutdown()
        serving.join()


def test_a_server_that_is_not_the_one_we_trust_is_not_talked_to(
    api: ApiServer, cluster: Factory, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    with ApiServer(tmp_path / "x") as other:
        config = json.loads(api.kubeconfig().read_text())
        config["clusters"][0]["cluster"]["server"] = other.url
        (tmp_path / "other").write_text(json.dumps(config))
        mine = cluster(tmp_path / "other", watch=False)
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            mine.pod("default", "web")
        assert not other.requests


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file or directory"),
        ("", "expected an object, got nothing"),
        ("{", "while parsing"),
        ("[]", "expected an object, got list"),
        ('{"current-context": "x", "contexts": []}', "expected object with name x"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, reason: str) -> None:
    kubeconfig = tmp_path / "config"
    if text is not None:
        kubeconfig.write_text(text)
    with pytest.raises(Error) as caught:
        ApiCluster(str(kubeconfig))
    assert caught.value.kind == Kind.INVALID_CONFIG
    assert caught.value.msg.startswith(f"API server from the kubeconfig {kubeconfig}: ")
    assert reason in caught.value.msg.lower()


@pytest.mark.parametrize("token", ["", " \n", "a\nb", "tökén"])
def test_a_token_that_cannot_be_one_is_refused(api: ApiServer, tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(Error, match="expected a token") as caught:
        ApiCluster(str(api.kubeconfig(tokenFile=str(tmp_path / "token"))))
    assert caught.value.kind == Kind.INVALID_CONFIG


def test_outside_of_a_cluster_the_configuration_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Error) as caught:
        ApiCluster()
    assert caught.value.kind == Kind.INVALID_CONFIG
    assert caught.value.msg == (
        "API server from the in-cluster service account: Service host/port is not set.; "
        "set cluster.kubeconfig or cluster.manifests in the configuration"
    )


# End: the fixture checks time, threads and connections


def test_closing_ends_a_list_that_is_not_answered(api: ApiServer, cluster: Factory) -> None:
    held = api.fault("LIST", hold=True)
    cluster(wait=False)
    api.wait(lambda: held.met == 2)


def test_closing_ends_an_answer_that_drips(api: ApiServer, cluster: Factory) -> None:
    dripping = api.fault("LIST", after=0, drip=0.2)
    cluster(wait=False)
    api.wait(lambda: dripping.met == 2)


def test_closing_ends_a_watch_that_does_not_begin(api: ApiServer, cluster: Factory) -> None:
    held = api.fault("WATCH", hold=True)
    cluster(wait=False)
    api.wait(lambda: held.met == 2)


def test_closing_waits_for_a_handshake_as_long_as_it_may_take(
    api: ApiServer, cluster: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LIST", watch._LIST._replace(connect=0.5))
    config = json.loads(api.kubeconfig().read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "other").write_text(json.dumps(config))
        mine = cluster(tmp_path / "other", wait=False)
        connections = [listener.accept()[0] for _ in range(2)]
        for connection in connections:
            assert connection.recv(1)  # the TLS ClientHello, which is never answered
        mine.close()
        for connection in connections:
            with connection:
                while connection.recv(65536):
                    pass


def test_closing_ends_a_pause_between_attempts(
    api: ApiServer, cluster: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_BACKOFF", (60.0, 60.0))
    cluster()
    api.cut_watches()
    api.wait(lambda: api.connections == 0)


def test_closing_ends_watches_of_credentials_from_before(api: ApiServer, cluster: Factory) -> None:
    api.put(pod())
    kubeconfig = api.kubeconfig()
    mine = cluster(kubeconfig)
    api.kubeconfig().replace(kubeconfig)
    mine.set_network_status("default", "web", "u1", STATUS)
    assert len(api.watches) == 2


def test_closing_twice_is_one(api: ApiServer, cluster: Factory) -> None:
    cluster().close()


# Listeners


def test_listener_is_told_of_all_pods_and_of_each_change(api: ApiServer, cluster: Factory) -> None:
    told: list[tuple[str, str | None]] = []

    def note(key: tuple[str, str], found: dict[str, Any] | None) -> None:
        told.append((key[1], found["metadata"]["annotations"].get("a") if found else "gone"))
        with api.changed:
            api.changed.notify_all()

    api.put(pod("first", a="1"))
    mine = cluster()
    mine.on_pod_change(note)
    assert told == [("first", "1")]
    api.put(pod("second"))
    api.wait(lambda: len(told) == 2)
    api.put(pod("first", a="2"))
    api.wait(lambda: len(told) == 3)
    api.delete("Pod", "default", "first")
    api.wait(lambda: len(told) == 4)
    assert told[1:] == [("second", None), ("first", "2"), ("first", "gone")]


def test_listener_is_told_of_what_went_while_the_watch_was_away(
    api: ApiServer, cluster: Factory, hurried: None
) -> None:
    gone = threading.Event()
    api.put(pod("web"))
    mine = cluster()
    mine.on_pod_change(lambda key, found: gone.set() if found is None else None)
    held = api.fault("WATCH", "/pods", hold=True)
    api.cut_watches()
    api.wait(lambda: held.met >= 1)
    api.delete("Pod", "default", "web")
    api.compact()
    api.heal()
    assert gone.wait(PATIENCE)
