"""Pods of a cluster with an API server: the requests of an ADD, and what happens while the server is down."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.node.calling import DONE
from tests.node.pods import Pod, World
from wirespeed.cni.errors import Code
from wirespeed.kube.cluster import NETWORK_STATUS


@pytest.fixture
def api(world: World, tmp_path: Path) -> Iterator[ApiServer]:
    """The API server of the world's node."""
    world.node.run("ip", "link", "set", "lo", "up")
    with ApiServer(tmp_path, netns=world.node.path) as server:
        yield server


def made(api: ApiServer, world: World, name: str = "p") -> Pod:
    """A pod in the cluster that requests the network default/bridged, which exists. It is not attached yet."""
    pod = world.pod(name, "bridged")
    for file in (world.folder / "manifests").glob("*.json"):
        value = json.loads(file.read_text())
        if value["kind"] == "Pod":
            value["spec"]["nodeName"] = "n1"
        api.put(value)
        file.unlink()
    return pod


def start(api: ApiServer, world: World, *, timeout: float = 4.0, **config: Any) -> None:
    """Start an agent that uses the API server instead of manifests. Requests up to now are forgotten."""
    assert world.agent.stop() == 0
    cluster = {"kubeconfig": str(api.kubeconfig()), "requestTimeout": timeout}
    world.restart(cluster=cluster, nodeName="n1", **config)
    api.wait(lambda: len(api.watches) == 2)
    api.forget()


def status(api: ApiServer, pod: Pod) -> Any:
    annotations = api.object("Pod", pod.namespace, pod.name)["metadata"]["annotations"]
    return json.loads(annotations.get(NETWORK_STATUS, "null"))


def requests(api: ApiServer) -> Counter[str]:
    """The requests so far, without those for events, which are written in the background."""
    return Counter({what: times for what, times in api.counts().items() if "/events" not in what})


def path(pod: Pod, suffix: str = "") -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}{suffix}"


def test_add_is_one_request_and_del_is_none(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    result = world.add(pod)
    assert requests(api) == {f"PATCH {path(pod, '/status')}": 1}
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"]}
    assert [(entry["name"], entry["interface"], entry["ips"]) for entry in status(api, pod)] == [
        ("pods", "eth0", ["10.1.0.2"]),
        ("default/bridged", "net1", ["10.2.0.2"]),
    ]
    api.wait(lambda: len(api.objects("Event")) == 2)
    api.forget()
    assert world.call("CHECK", pod, {**world.config, "prevResult": result}) == DONE
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)
    assert not api.counts()


def told(api: ApiServer) -> list[tuple[str, str, str]]:
    """(type, reason, message) of all events."""
    return sorted((each["type"], each["reason"], each["message"]) for each in api.objects("Event"))


def test_events_tell_of_each_attachment_and_add_does_not_wait_for_them(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    held = api.fault("POST", hold=True)
    world.add(pod)
    api.wait(lambda: held.met == 1)
    assert told(api) == []
    api.heal()
    api.wait(lambda: len(api.objects("Event")) == 2)
    assert told(api) == [
        ("Normal", "AddedInterface", "Add eth0 [10.1.0.2/24] from pods"),
        ("Normal", "AddedInterface", "Add net1 [10.2.0.2/24] from default/bridged"),
    ]
    assert {each["involvedObject"]["uid"] for each in api.objects("Event")} == {"uid-p"}


def test_event_tells_why_a_pod_is_not_attached_and_how_often_it_was_tried(world: World, api: ApiServer) -> None:
    pod, other = made(api, world), made(api, world, "other")
    for name, networks in (("p", "absent"), ("other", "a b")):
        value = api.object("Pod", "default", name)
        value["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = networks
        api.put(value)
    start(api, world)
    for times in (1, 2):
        code, message = world.refused("ADD", pod)
        assert code == Code.INVALID_CONFIG
        api.wait(lambda times=times: [each["count"] for each in api.objects("Event")] == [times])  # type: ignore[misc]
    assert told(api) == [("Warning", "NoNetworkFound", message.removeprefix("pod default/p: "))]
    _, message = world.refused("ADD", other)
    api.wait(lambda: len(api.objects("Event")) == 2)
    assert told(api)[0] == ("Warning", "AttachFailed", message.removeprefix("pod default/other: "))


def test_key_of_the_annotation_that_is_not_known_is_an_event_and_the_pod_runs(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    value = api.object("Pod", "default", "p")
    # As in Multus' own example of a macvlan pod, with one key in upper case.
    asked = [{"name": "bridged", "Interface": "fast", "gateway": ["10.1.1.1"]}]
    value["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = json.dumps(asked)
    api.put(value)
    start(api, world)
    world.add(pod)
    assert sorted(pod.links()) == ["eth0", "fast"]
    api.wait(lambda: len(api.objects("Event")) == 3)
    assert told(api)[-1] == (
        "Warning",
        "RequestIgnored",
        'annotation k8s.v1.cni.cncf.io/networks: element 1 (default/bridged): unknown key "gateway": it '
        'has no effect; did you mean "default-route"?',
    )


def test_no_events_are_made_where_the_configuration_says_so(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    assert world.agent.stop() == 0
    world.restart(cluster={"kubeconfig": str(api.kubeconfig()), "events": False}, nodeName="n1")
    world.add(pod)
    assert world.agent.stop() == 0  # stopping writes pending events
    assert told(api) == []


def test_a_pod_of_which_the_watch_has_not_told_is_asked_for(world: World, api: ApiServer) -> None:
    start(api, world)
    held = api.fault("WATCH", "/pods", hold=True)
    api.cut_watches()
    api.wait(lambda: held.met == 1)
    pod = made(api, world)
    world.add(pod)
    assert [entry["interface"] for entry in status(api, pod)] == ["eth0", "net1"]
    asked = {verb for verb in api.counts() if pod.name in verb.rsplit("/", 2)[-2:]}
    assert asked == {f"GET {path(pod)}", f"PATCH {path(pod, '/status')}"}


def test_many_pods_at_once_are_one_request_each(world: World, api: ApiServer) -> None:
    pods = [made(api, world, f"p{number}") for number in range(8)]
    start(api, world)
    with ThreadPoolExecutor(len(pods)) as runtime:
        results = list(runtime.map(world.add, pods))
    assert requests(api) == {f"PATCH {path(pod, '/status')}": 1 for pod in pods}
    told = [status(api, pod)[0]["ips"][0] for pod in pods]
    assert told == [result["ips"][0]["address"].partition("/")[0] for result in results]
    assert len(set(told)) == len(pods)


def test_while_the_server_is_away_pods_that_are_known_are_attached_and_del_works(
    world: World, api: ApiServer
) -> None:
    attached, waiting = made(api, world, "attached"), made(api, world, "waiting")
    start(api, world, timeout=0.5, deadline=3.0)
    world.add(attached)
    api.stop()
    world.add(waiting)
    told = world.agent.wait_log("pod default/waiting: network-status is not written yet and will be retried: ")
    assert f"no answer from the API server: {api.url}: Failed to establish a new connection" in told
    assert waiting.addresses() == {"eth0": ["10.1.0.3/24"], "net1": ["10.2.0.3/24"]}
    assert world.call("DEL", attached) == DONE
    assert world.nothing_left(attached)
    api.start()
    api.wait(lambda: status(api, waiting) is not None)
    assert world.call("DEL", waiting) == DONE
    assert world.nothing_left(waiting)


def test_a_pod_that_is_not_known_while_the_server_is_away_is_not_touched(world: World, api: ApiServer) -> None:
    start(api, world, timeout=0.5, deadline=3.0)
    api.stop()
    pod = made(api, world)
    code, message = world.refused("ADD", pod)
    assert code == Code.TRY_AGAIN_LATER
    assert message.startswith("pod default/p: ")
    assert "no answer from the API server" in message
    assert re.search(r"\(after \d+ attempts\)$", message)
    assert world.nothing_left(pod)


def test_an_agent_that_starts_without_a_server_serves_del(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    world.add(pod)
    api.stop()
    began = time.monotonic()
    assert world.agent.stop() == 0
    assert time.monotonic() - began < 5.0
    world.restart(
        cluster={"kubeconfig": json.loads(world.agent.config.read_text())["cluster"]["kubeconfig"]}, deadline=3.0
    )
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)
    code, message = world.refused("ADD", pod)
    assert code == Code.TRY_AGAIN_LATER
    assert "no answer from the API server" in message


def test_status_of_a_pod_that_was_replaced_meanwhile_is_not_its_successors(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    held = api.fault("PATCH", hold=True, times=1)
    call = world.begin("ADD", pod)
    api.wait(lambda: held.met == 1)
    old = api.object("Pod", "default", "p")
    api.delete("Pod", "default", "p")
    api.put({**old, "metadata": {**old["metadata"], "uid": "successor", "annotations": {}}})
    held.release()
    answer = call.answer()
    assert (answer.status, answer.body["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "its UID in the API server is successor, not uid-p" in answer.body["msg"]
    assert status(api, pod) is None
    assert world.nothing_left(pod)


def test_status_of_another_writer_is_no_hindrance(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    api.fault("PATCH", status=409, times=2)
    world.add(pod)
    assert [entry["interface"] for entry in status(api, pod)] == ["eth0", "net1"]


def test_a_token_that_may_not_write_status_is_told_and_nothing_stays(world: World, api: ApiServer) -> None:
    pod = made(api, world)
    start(api, world)
    api.fault("PATCH", status=403, message='pods "p" is forbidden: cannot patch resource "pods/status"')
    code, message = world.refused("ADD", pod)
    assert code == Code.POLICY
    assert message.endswith(
        'the API server forbids it: 403 pods "p" is forbidden: cannot patch resource "pods/status"'
    )
    assert world.nothing_left(pod)


def test_runtimes_status_tells_of_a_server_that_is_away(world: World, api: ApiServer) -> None:
    start(api, world)
    assert world.runtime("STATUS") == DONE
    api.stop()
    answer = world.runtime("STATUS")
    while answer == DONE:  # the agent notices it when its watches end
        world.agent.wait_log("watch of", "using the objects in the cache")
        answer = world.runtime("STATUS")
    assert answer.body["code"] == Code.UNAVAILABLE
    assert "no answer from the API server" in answer.body["msg"]


def test_del_of_an_unknown_container_waits_for_a_server_that_alone_knows_the_master(
    world: World, api: ApiServer
) -> None:
    """The master's addresses could not be released otherwise, so the runtime must retry."""
    pod = made(api, world)
    start(api, world)
    config = {key: value for key, value in world.config.items() if key != "delegates"} | {"clusterNetwork": "main"}
    api.stop()
    code, message = world.refused("DEL", pod, config)
    assert code == Code.TRY_AGAIN_LATER
    assert "NetworkAttachmentDefinition kube-system/main: no answer from the API server" in message
    api.start()
    assert world.call("DEL", pod, config) == DONE  # the network does not exist
