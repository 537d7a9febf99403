"""Events of pods: what the API server receives, and what happens to events while it is unreachable."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.node.calling import until
from wirespeed.kube import events
from wirespeed.kube.api import Timeouts
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import Event
from wirespeed.kube.manifests import ManifestCluster

PATH = "/api/v1/namespaces/default/events"


def event(message: str = "net1", *, name: str = "web", warning: bool = False) -> Event:
    return Event(namespace="default", name=name, uid=f"uid-{name}", reason="Told", message=message, warning=warning)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer) -> Iterator[ApiCluster]:
    made = ApiCluster(str(api.kubeconfig()), "n1", watch=False)
    yield made
    made.close()
    assert made._events._thread is None or not made._events._thread.is_alive()


def counts(api: ApiServer) -> dict[str, int]:
    """The count of each message."""
    return {each["message"]: each["count"] for each in api.objects("Event")}


def test_event_is_what_kubectl_shows_of_a_pod(api: ApiServer, cluster: ApiCluster) -> None:
    cluster.event(event("it is broken", warning=True))
    api.wait(lambda: bool(api.objects("Event")))
    (found,) = api.objects("Event")
    assert found["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "uid": "uid-web",
    }
    assert (found["type"], found["reason"], found["message"]) == ("Warning", "Told", "it is broken")
    assert found["source"] == {"component": "wirespeed", "host": "n1"}
    assert found["firstTimestamp"] == found["lastTimestamp"]
    time.strptime(found["firstTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    assert found["metadata"]["name"].startswith("web.")


def test_event_that_is_repeated_is_counted_and_no_other_one(api: ApiServer, cluster: ApiCluster) -> None:
    for times in (1, 2, 3):
        cluster.event(event("again"))
        api.wait(lambda times=times: counts(api).get("again") == times)  # type: ignore[misc]
    cluster.event(event("other"))
    cluster.event(event("again", name="second"))
    api.wait(lambda: len(api.objects("Event")) == 3)
    assert sorted(each["count"] for each in api.objects("Event")) == [1, 1, 3]


def test_events_that_wait_together_are_one(api: ApiServer, cluster: ApiCluster) -> None:
    held = api.fault("POST", hold=True, times=1)
    cluster.event(event("first"))
    api.wait(lambda: held.met == 1)
    for _ in range(50):
        cluster.event(event("repeated"))
    held.release()
    api.wait(lambda: len(api.objects("Event")) == 2)
    assert counts(api) == {"first": 1, "repeated": 50}
    assert api.counts() == {f"POST {PATH}": 2}


def test_repetition_of_an_event_that_the_server_forgot_is_written_anew(api: ApiServer, cluster: ApiCluster) -> None:
    cluster.event(event())
    api.wait(lambda: len(api.objects("Event")) == 1)
    first = api.objects("Event")[0]["metadata"]["name"]
    api.delete("Event", "default", first)
    cluster.event(event())
    api.wait(lambda: len(api.objects("Event")) == 1)
    assert api.objects("Event")[0]["metadata"]["name"] != first


def test_event_whose_answer_was_lost_is_there_once(api: ApiServer, cluster: ApiCluster) -> None:
    lost = api.fault("POST", times=1, after=0, cut=True)  # created, but the answer is cut
    cluster.event(event())
    cluster.event(event("next"))
    api.wait(lambda: len(api.objects("Event")) == 2)
    assert lost.met == 1
    assert sorted(counts(api)) == ["net1", "next"]


def test_who_tells_does_not_wait_for_a_server_that_hangs_and_what_is_too_much_is_dropped(
    api: ApiServer, cluster: ApiCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MAX_QUEUED", 10)
    held = api.fault("POST", hold=True)
    cluster.event(event("first"))
    api.wait(lambda: held.met == 1)
    began = time.monotonic()
    for number in range(200):
        cluster.event(event(f"{number}"))
    assert time.monotonic() - began < 1.0
    assert cluster._events.dropped == 190
    api.heal()
    api.wait(lambda: len(api.objects("Event")) == 11)


def test_events_are_dropped_and_counted_while_the_server_is_away(
    api: ApiServer, cluster: ApiCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.stop()
    for number in range(20):
        cluster.event(event(f"{number}"))
    until(lambda: cluster._events.dropped == 20, "dropped")
    api.start()
    cluster.event(event("back"))
    api.wait(lambda: counts(api) == {"back": 1})
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].endswith("Connection refused; they are dropped")
    cluster.close()
    assert "events: they are written again; 20 were dropped until now" in caplog.text


def test_token_that_may_not_write_events_is_told_once(
    api: ApiServer, cluster: ApiCluster, caplog: pytest.LogCaptureFixture
) -> None:
    denied = api.fault("POST", status=403, message="events is forbidden")
    cluster.event(event("a"))
    cluster.event(event("b"))
    api.wait(lambda: denied.met == 2)
    cluster.close()
    assert [record.getMessage() for record in caplog.records] == [
        "events: 403 events is forbidden; they are dropped"
    ]
    assert cluster._events.dropped == 2


def test_what_waits_is_written_before_the_end(api: ApiServer, cluster: ApiCluster) -> None:
    for number in range(20):
        cluster.event(event(f"{number}"))
    cluster.close()
    assert len(api.objects("Event")) == 20
    cluster.event(event("late"))
    assert cluster._events.dropped == 1


def test_end_does_not_wait_long_for_a_server_that_hangs(api: ApiServer, cluster: ApiCluster) -> None:
    held = api.fault("POST", hold=True)
    cluster.event(event("a"))
    cluster.event(event("b"))
    api.wait(lambda: held.met == 1)
    began = time.monotonic()
    cluster.close()
    assert time.monotonic() - began < events._FLUSH + 1.0
    assert cluster._events.dropped == 2


def test_long_names_and_messages_are_cut_to_what_the_server_takes(api: ApiServer, cluster: ApiCluster) -> None:
    cluster.event(event("x" * 5000, name="a" * 253))
    api.wait(lambda: bool(api.objects("Event")))
    (found,) = api.objects("Event")
    assert len(found["metadata"]["name"]) == 253
    assert len(found["message"]) == 1024


def test_few_events_are_remembered(api: ApiServer, cluster: ApiCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MAX_REMEMBERED", 2)
    monkeypatch.setattr(events, "_TIMEOUTS", Timeouts(connect=1.0, read=2.0, total=3.0))
    for message in ("a", "b", "c", "a"):
        cluster.event(event(message))
        api.wait(lambda: not cluster._events._queue)
    cluster.close()
    assert len(cluster._events._written) == 2
    assert [each["message"] for each in api.objects("Event")].count("a") == 2  # the first one had been forgotten


def test_folder_of_manifests_logs_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ManifestCluster(tmp_path).event(event("fine"))
    ManifestCluster(tmp_path).event(event("broken", warning=True))
    told: list[Any] = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "event of pod default/web: Told: fine"),
        ("WARNING", "event of pod default/web: Told: broken"),
    ]
