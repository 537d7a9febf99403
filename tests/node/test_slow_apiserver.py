"""An API server that is slow, hangs, or loses answers: pods keep their attachments; nothing is done twice."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.node.calling import DONE
from tests.node.pods import Pod, World
from tests.node.test_hotplug import run
from tests.node.test_meta_apiserver import api, made, path, start, status, told
from wirespeed.cni.errors import Code

__all__ = ["api"]

MANY = 20
COUNTED = {"cniVersion": "1.0.0", "name": "counted", "type": "counted"}


@pytest.fixture
def counted(world: World) -> World:
    """The world with a plugin for default/bridged that counts its calls."""
    world.script("counted")
    world.define("bridged", COUNTED)
    return world


def pending(world: World) -> set[str]:
    """The containers whose network-status is pending according to the journal."""
    with closing(sqlite3.connect(f"file:{world.agent.state}?mode=ro", uri=True)) as journal:
        rows = journal.execute("SELECT container, record FROM attachment").fetchall()
    return {container for container, record in rows if json.loads(record).get("statusOwed") is not None}


def all_written(api: ApiServer, pods: list[Pod]) -> bool:
    return all([entry["interface"] for entry in status(api, pod) or ()] == ["eth0", "net1"] for pod in pods)


def without_watch(api: ApiServer) -> None:
    """From now on, no watch event about pods arrives, so the agent must read each pod."""
    held = api.fault("WATCH", "/pods", hold=True)
    api.cut_watches()
    api.wait(lambda: held.met == 1)


def add_all(world: World, pods: list[Pod]) -> None:
    with ThreadPoolExecutor(len(pods)) as runtime:
        for answer in runtime.map(lambda pod: world.call("ADD", pod), pods):
            assert answer.status == 0, answer.body


def check_made_once(world: World, pods: list[Pod]) -> None:
    assert len(world.calls("counted", "ADD")) == len(pods)
    assert world.calls("counted", "DEL") == []
    assert set(world.rows().values()) == {"added"}
    assert len(world.rows()) == 2 * len(pods)


def test_pods_of_a_server_that_is_paused_most_of_the_time_are_made_once(counted: World, api: ApiServer) -> None:
    """The server works for 0.35 s of every 4.35 s; the first attempt of a request has 1.5 s."""
    pods = [made(api, counted, f"p{number:02}") for number in range(MANY)]
    start(api, counted, timeout=1.5)
    with api.pausing(4.0, 4.35):
        add_all(counted, pods)
    check_made_once(counted, pods)
    api.wait(lambda: all_written(api, pods))
    for pod in pods:
        assert counted.call("DEL", pod) == DONE
        assert counted.nothing_left(pod)


@pytest.mark.parametrize("known", [True, False], ids=["known", "asked for"])
@pytest.mark.parametrize(
    "fault",
    [
        {"cut": True},  # reset after the request was read
        {"cut": True, "after": 0},  # executed, but the answer is lost
        {"cut": True, "after": 20},  # executed, but the answer is incomplete
        {"status": 429, "retry_after": 1},
        {"status": 503},
        {"status": 500},
        {"delay": 1.0},  # longer than the timeout of the first attempt
    ],
    ids=lambda fault: " ".join(f"{key} {value}" for key, value in fault.items()),
)
def test_pods_of_a_server_that_fails_are_made_once(
    counted: World, api: ApiServer, fault: dict[str, Any], known: bool
) -> None:
    if not known:
        start(api, counted, timeout=0.7)
        without_watch(api)
    pods = [made(api, counted, f"p{number:02}") for number in range(MANY)]
    if known:
        start(api, counted, timeout=0.7)
    failing = [api.fault(verb, "/pods", times=2 * MANY, **fault) for verb in ("GET", "PATCH")]
    add_all(counted, pods)
    assert failing[1].met
    check_made_once(counted, pods)
    assert all_written(api, pods)
    assert not pending(counted)


def test_pods_of_a_server_that_hangs_are_attached_by_their_deadline_and_told_of_later(
    counted: World, api: ApiServer
) -> None:
    pods = [made(api, counted, f"p{number:02}") for number in range(MANY)]
    start(api, counted, timeout=0.5, deadline=4.0)
    api.fault("PATCH", hold=True)
    add_all(counted, pods)
    check_made_once(counted, pods)
    assert pending(counted) == {pod.container for pod in pods}
    assert sum("network-status is not written yet" in line for line in counted.agent.log) <= MANY
    api.heal()
    api.wait(lambda: all_written(api, pods))
    api.wait(lambda: sum(each["reason"] == "NetworkStatusDelayed" for each in api.objects("Event")) == MANY)
    assert not pending(counted)
    check_made_once(counted, pods)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_status_that_is_pending_is_written_by_the_next_agent(
    counted: World, api: ApiServer, number: signal.Signals
) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5, deadline=2.0)
    api.fault("PATCH", hold=True)
    counted.add(pod)
    assert pending(counted) == {pod.container}
    counted.agent.stop(number)
    api.heal()
    config = json.loads(counted.agent.config.read_text())
    counted.restart(cluster=config["cluster"], nodeName="n1")
    api.wait(lambda: all_written(api, [pod]))
    counted.agent.wait_log("pod default/p: network-status is written now")
    assert not pending(counted)


def test_status_that_is_pending_ends_with_the_pods_del(counted: World, api: ApiServer) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5, deadline=2.0)
    held = api.fault("PATCH", hold=True)
    counted.add(pod)
    assert counted.call("DEL", pod) == DONE
    assert counted.nothing_left(pod)
    counted.agent.wait_log("pod default/p: network-status is no longer pending")
    before = held.met
    api.heal()
    other = made(api, counted, "other")
    counted.add(other)
    assert all_written(api, [other])
    assert held.met == before
    assert status(api, pod) is None


def test_status_of_a_pod_that_is_gone_is_no_longer_pending(counted: World, api: ApiServer) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5, deadline=2.0)
    api.fault("PATCH", hold=True)
    counted.add(pod)
    api.delete("Pod", "default", "p")
    api.heal()
    counted.agent.wait_log("pod default/p is gone: its network-status is not written")
    assert not pending(counted)
    assert counted.call("DEL", pod) == DONE


def test_status_that_is_refused_for_good_is_told_and_not_tried_for_ever(counted: World, api: ApiServer) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5, deadline=2.0)
    api.fault("PATCH", hold=True)
    counted.add(pod)
    api.fault("PATCH", "/pods", status=403, message="no")
    counted.agent.wait_log("pod default/p: network-status: ", "the API server forbids it: 403 no")
    api.wait(lambda: "NetworkStatusRefused" in [reason for _, reason, _ in told(api)])
    assert not pending(counted)
    assert set(counted.rows().values()) == {"added"}


def test_agent_that_ends_does_not_wait_for_the_server(counted: World, api: ApiServer) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5)
    held = api.fault("PATCH", status=503)
    call = counted.begin("ADD", pod)
    api.wait(lambda: held.met == 2)
    assert counted.agent.stop() == 0
    assert call.answer().status == 0
    assert pending(counted) == {pod.container}


def test_del_does_not_wait_for_adds_that_wait_for_the_server(counted: World, api: ApiServer) -> None:
    attached, pod = made(api, counted, "attached"), made(api, counted)
    start(api, counted, timeout=0.5, workers=1)
    counted.add(attached)
    held = api.fault("PATCH", status=503)
    call = counted.begin("ADD", pod)
    api.wait(lambda: held.met == 1)
    assert counted.call("DEL", attached) == DONE
    assert call.process.poll() is None
    api.heal()
    assert call.answer().status == 0


def test_reading_leaves_time_for_attaching(counted: World, api: ApiServer) -> None:
    """Even if reading the pod takes most of the deadline, it is attached within it."""
    start(api, counted, timeout=0.5, deadline=9.0)
    without_watch(api)
    pod = made(api, counted)
    failing = api.fault("GET", path(pod), status=503)
    call = counted.begin("ADD", pod)
    api.wait(lambda: failing.met == 4)
    failing.times = 0
    assert call.answer().status == 0
    assert all_written(api, [pod])
    failing.times = None
    other = made(api, counted, "other")
    api.fault("GET", path(other), status=503)
    began = time.monotonic()
    code, _ = counted.refused("ADD", other)
    assert code == Code.TRY_AGAIN_LATER
    assert time.monotonic() - began < 9.0
    assert counted.nothing_left(other)


def test_network_that_is_attached_later_stays_too(counted: World, api: ApiServer) -> None:
    pod = made(api, counted)
    start(api, counted, timeout=0.5, deadline=3.0)
    counted.add(pod)
    counted.define("more", COUNTED)
    (file,) = (counted.folder / "manifests").glob("Net*more*")
    api.put(json.loads(file.read_text()))
    hung = api.fault("PATCH", hold=True)
    run(counted, "attach", "p", "more")
    assert set(counted.rows().values()) == {"added"}
    assert pending(counted) == {pod.container}
    hung.times = 0
    api.heal()
    api.wait(lambda: [entry["interface"] for entry in status(api, pod)] == ["eth0", "net1", "net2"])
    api.wait(lambda: not pending(counted))
    hung = api.fault("PATCH", hold=True)
    run(counted, "detach", "p", "net2")
    assert (pod.container, "net2") not in counted.rows()
    api.heal()
    api.wait(lambda: [entry["interface"] for entry in status(api, pod)] == ["eth0", "net1"])
    assert len(counted.calls("counted", "ADD")) == 2
