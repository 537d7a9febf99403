"""The networks annotation of running pods changes, with an API server and executed plugins."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.node.calling import DONE, Events, Gate
from tests.node.pods import Pod, World
from wirespeed.kube.cluster import NETWORK_STATUS

NETWORKS = "k8s.v1.cni.cncf.io/networks"


@pytest.fixture
def api(world: World, tmp_path: Path) -> Iterator[ApiServer]:
    """The API server of the world's node, whose agent follows the annotations."""
    world.node.run("ip", "link", "set", "lo", "up")
    with ApiServer(tmp_path, netns=world.node.path) as server:
        assert world.agent.stop() == 0
        publish(world, server)
        start(world, server)
        yield server


def start(world: World, api: ApiServer) -> None:
    world.restart(cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1", followNetworks=True)
    api.wait(lambda: len(api.watches) == 2)


def publish(world: World, api: ApiServer) -> None:
    """Move the world's manifests into the API server."""
    for file in (world.folder / "manifests").glob("*.json"):
        value = json.loads(file.read_text())
        if value["kind"] == "Pod":
            value["spec"]["nodeName"] = "n1"
        api.put(value)
        file.unlink()


def running(world: World, api: ApiServer, networks: str, name: str = "p") -> Pod:
    pod = world.pod(name, networks)
    publish(world, api)
    world.add(pod)
    return pod


def annotate(api: ApiServer, pod: Pod, networks: Any) -> None:
    value = api.object("Pod", pod.namespace, pod.name)
    value["metadata"]["annotations"][NETWORKS] = networks if isinstance(networks, str) else json.dumps(networks)
    api.put(value)


def reported(api: ApiServer, pod: Pod) -> dict[str, str]:
    """The networks in network-status, by interface."""
    text = api.object("Pod", pod.namespace, pod.name)["metadata"]["annotations"].get(NETWORK_STATUS, "[]")
    return {entry["interface"]: entry["name"] for entry in json.loads(text)}


def wait(api: ApiServer, pod: Pod, **networks: str) -> None:
    """Wait until network-status has these interfaces in addition to eth0."""
    api.wait(lambda: reported(api, pod) == {"eth0": "pods", **networks})


def events(api: ApiServer, pod: Pod) -> list[tuple[str, str]]:
    return [
        (each["reason"], each["message"])
        for each in api.objects("Event")
        if each["involvedObject"]["name"] == pod.name
    ]


def test_network_that_comes_to_the_annotation_is_attached_and_one_that_goes_is_detached(
    world: World, api: ApiServer
) -> None:
    pod = running(world, api, "bridged")
    annotate(api, pod, "bridged,ptp")
    wait(api, pod, net1="default/bridged", net2="default/ptp")
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"], "net2": ["10.3.0.2/24"]}
    assert world.call("CHECK", pod) == DONE
    annotate(api, pod, "ptp")
    wait(api, pod, net2="default/ptp")
    api.wait(lambda: ("RemovedInterface", "Remove net1 from default/bridged") in events(api, pod))
    assert sorted(pod.links()) == ["eth0", "net2"]
    annotate(api, pod, "")
    wait(api, pod)
    api.wait(lambda: ("RemovedInterface", "Remove net2 from default/ptp") in events(api, pod))
    assert sorted(world.leases().values()) == ["c-p eth0"]
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_interface_that_an_element_asks_for_is_what_it_is_known_by(world: World, api: ApiServer) -> None:
    pod = running(world, api, "bridged@a,bridged@b")
    annotate(api, pod, [{"name": "bridged", "interface": "b"}, {"name": "bridged", "interface": "c"}])
    wait(api, pod, b="default/bridged", c="default/bridged")
    api.wait(lambda: ("RemovedInterface", "Remove a from default/bridged") in events(api, pod))
    assert pod.addresses()["b"] == ["10.2.0.3/24"]  # it was not changed


def test_key_that_is_not_known_is_told_of_with_the_network_that_comes_and_of_no_other(
    world: World, api: ApiServer
) -> None:
    pod = running(world, api, "bridged")
    annotate(api, pod, [{"Name": "bridged"}, {"NAME": "ptp", "INTERFACE": "later", "gateway": ["10.1.1.1"]}])
    wait(api, pod, net1="default/bridged", later="default/ptp")
    api.wait(lambda: any(reason == "RequestIgnored" for reason, _ in events(api, pod)))
    annotate(
        api,
        pod,
        [{"name": "bridged", "zz": 1}, {"name": "ptp", "interface": "later", "gateway": []}, {"name": "bridged"}],
    )
    wait(api, pod, net1="default/bridged", later="default/ptp", net2="default/bridged")
    api.wait(lambda: ("AddedInterface", "Add net2 [10.2.0.3/24] from default/bridged") in events(api, pod))
    (text,) = [message for reason, message in events(api, pod) if reason == "RequestIgnored"]
    assert 'element 2 (default/ptp): unknown key "gateway": it has no effect; did you mean "default-route"?' in text


def test_network_that_is_not_there_yet_is_attached_once_it_is(world: World, api: ApiServer) -> None:
    pod = running(world, api, "")
    annotate(api, pod, "late,bridged")
    wait(api, pod, net1="default/bridged")  # the other network is still attached
    api.wait(lambda: any(reason == "NoNetworkFound" for reason, _ in events(api, pod)))
    world.define("late", world.conflist("late", world.bridge("10.7.0.0/24")))
    publish(world, api)
    wait(api, pod, net1="default/bridged", net2="default/late")
    assert pod.addresses()["net2"] == ["10.7.0.2/24"]


def test_annotation_that_cannot_be_read_changes_nothing(world: World, api: ApiServer) -> None:
    pod = running(world, api, "bridged")
    annotate(api, pod, "bridged,,")
    api.wait(lambda: any(reason == "AttachFailed" for reason, _ in events(api, pod)))
    assert sorted(pod.links()) == ["eth0", "net1"]
    annotate(api, pod, "bridged,ptp")
    wait(api, pod, net1="default/bridged", net2="default/ptp")


def test_what_changed_while_the_agent_was_away_is_followed_when_it_comes(world: World, api: ApiServer) -> None:
    pod = running(world, api, "bridged")
    assert world.agent.stop() == 0
    annotate(api, pod, "ptp")
    start(world, api)
    api.wait(lambda: "default/ptp" in reported(api, pod).values())
    api.wait(lambda: "default/bridged" not in reported(api, pod).values())


def test_what_changes_within_an_add_is_followed_after_it(world: World, api: ApiServer, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with Events(tmp_path) as told:
        held = {"cniVersion": "1.0.0", "type": "probe", "events": str(told.path), "gate": str(gate.path)}
        world.define("held", held)
        pod = world.pod("p", "held")
        publish(world, api)
        adding = world.begin("ADD", pod)
        assert told.next() == "begin ADD c-p"
        annotate(api, pod, "held,bridged")
        gate.open()
        assert adding.answer().status == 0
        wait(api, pod, net1="default/held", net2="default/bridged")
        deleting = world.begin("DEL", pod)
        assert told.next() == "end ADD c-p"
        assert told.next() == "begin DEL c-p"
        gate.open()
        assert deleting.answer() == DONE
    assert world.nothing_left(pod)


def test_pod_as_it_was_attached_and_networks_of_the_configuration_are_left_alone(
    world: World, api: ApiServer
) -> None:
    second = world.conflist("second", world.bridge("10.8.0.0/24"))
    world.config["delegates"].append(second)
    pods = [running(world, api, "bridged", name) for name in ("p", "q")]
    before = {pod.name: pod.links() for pod in pods}
    api.forget()
    annotate(api, pods[0], "bridged,ptp")
    wait(api, pods[0], net1="second", net2="default/bridged", net3="default/ptp")
    annotate(api, pods[0], "")
    wait(api, pods[0], net1="second")
    assert {"eth0", "net1"} <= pods[0].links().keys()
    assert pods[1].links().keys() == before["q"].keys()
    path = "/api/v1/namespaces/default/pods/q/status"
    assert f"PATCH {path}" not in api.counts()


def test_agent_with_a_folder_of_manifests_cannot_follow(world: World) -> None:
    assert world.agent.stop() == 0
    agent = world.start(folder=world.folder, node=world.node, followNetworks=True, ready=False)
    agent.wait_log('key "followNetworks": it needs an API server, as a folder of manifests does not report changes')
    assert agent.process.wait(30) == 1


def test_pod_that_another_version_attached_is_left_as_it_is(world: World, api: ApiServer) -> None:
    pod = running(world, api, "bridged")
    assert world.agent.stop() == 0
    with closing(sqlite3.connect(world.agent.state)) as journal, journal:
        journal.execute("UPDATE attachment SET record = json_remove(record, '$.delegate.settings')")
    annotate(api, pod, "ptp")
    start(world, api)
    world.agent.wait_log("pod default/p was attached by another version: its annotation is not followed")
    assert sorted(pod.links()) == ["eth0", "net1"]
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)
