"""Cases that meta-plugins get wrong, from the runtime's call to the kernel; see docs/meta-acceptance.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.node.calling import DONE, Call
from tests.node.pods import World
from wirespeed.cni.errors import Code
from wirespeed.kube.cluster import MIRROR, NETWORK_STATUS


def test_network_that_answers_without_an_interface_is_attached(world: World) -> None:
    world.script("quiet", """[ $CNI_COMMAND = ADD ] && { echo '{"cniVersion":"1.0.0"}'; exit 0; }""")
    world.define("quiet", {"cniVersion": "1.0.0", "type": "quiet"})
    pod = world.pod("p", "quiet")
    assert world.add(pod)["ips"][0]["address"] == "10.1.0.2/24"
    status = world.status(pod)
    assert status is not None
    assert status[1] == {"name": "default/quiet", "interface": "net1", "dns": {}}
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_pod_and_networks_that_the_cluster_has_no_more_are_checked_and_deleted(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    for file in (world.folder / "manifests").glob("*.json"):
        file.unlink()
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_pod_of_another_uid_is_not_the_one_that_is_attached(world: World) -> None:
    pod = world.pod("p", "bridged")
    code, message = world.refused("ADD", pod, CNI_ARGS=pod.args.replace("uid-p", "foobar"))
    assert code == Code.TRY_AGAIN_LATER
    assert "is uid-p, not foobar" in message
    assert world.nothing_left(pod)
    without = pod.args.removesuffix(";K8S_POD_UID=uid-p")
    world.add(pod, CNI_ARGS=without)
    assert world.call("DEL", pod, CNI_ARGS=without) == DONE
    assert world.nothing_left(pod)


def test_arguments_of_the_runtime_reach_each_plugin_once(world: World) -> None:
    for name in ("main", "side"):
        world.script(name)
    world.define("side", {"cniVersion": "1.0.0", "type": "side"})
    master = {"cniVersion": "1.0.0", "name": "m", "type": "main"}
    pod = world.pod("p", "side")
    world.add(pod, {**world.config, "delegates": [master]}, CNI_ARGS=f"{pod.args};MYARG=a=b")
    for name in ("main", "side"):
        ((environ, _),) = world.calls(name, "ADD")
        pairs = environ["CNI_ARGS"].split(";")
        assert pairs.count("MYARG=a=b") == 1
        assert len(pairs) == len({pair.partition("=")[0] for pair in pairs})
        assert set(pod.args.split(";")) <= set(pairs)


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_configuration_that_breaks_off_is_refused_in_every_verb(world: World, verb: str) -> None:
    pod = world.pod("p")
    stdin = json.dumps(world.config).encode()[:-10]
    answer = Call(world.shim, world.environ(verb, pod), stdin, name="wirespeed").answer()
    assert (answer.status, answer.body["code"]) == (1, Code.DECODING_FAILURE)
    assert world.nothing_left(pod)


def test_status_of_pods_in_system_namespaces_is_told_like_any_others(world: World) -> None:
    pod = world.pod("s", "default/bridged", namespace="kube-system")
    world.add(pod)
    assert [entry["interface"] for entry in world.status(pod) or []] == ["eth0", "net1"]


# With an API server


@pytest.fixture
def api(world: World, tmp_path: Path) -> Iterator[ApiServer]:
    world.node.run("ip", "link", "set", "lo", "up")
    with ApiServer(tmp_path, netns=world.node.path) as server:
        yield server


def start(api: ApiServer, world: World) -> None:
    """Start an agent that uses the API server instead of manifests."""
    for file in (world.folder / "manifests").glob("*.json"):
        value = json.loads(file.read_text())
        if value["kind"] == "Pod":
            value["spec"]["nodeName"] = "n1"
        api.put(value)
        file.unlink()
    assert world.agent.stop() == 0
    world.restart(cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1")
    api.wait(lambda: len(api.watches) == 2)


def test_server_that_takes_a_second_for_each_answer_is_waited_for(world: World, api: ApiServer) -> None:
    pod = world.pod("p", "bridged")
    start(api, world)
    slow = [api.fault(verb, delay=1.0) for verb in ("GET", "PATCH")]
    # without the UID, the pod is read from the API server
    world.add(pod, CNI_ARGS=pod.args.removesuffix(";K8S_POD_UID=uid-p"))
    assert all(fault.met for fault in slow)
    assert sorted(pod.links()) == ["eth0", "net1"]


def test_static_pod_is_known_by_the_hash_that_its_mirror_tells(world: World, api: ApiServer) -> None:
    pod = world.pod("p", "bridged", **{MIRROR: "hash"})
    start(api, world)
    args = pod.args.replace("uid-p", "hash")
    world.add(pod, CNI_ARGS=args)
    assert pod.addresses()["net1"] == ["10.2.0.2/24"]
    assert NETWORK_STATUS in api.object("Pod", "default", "p")["metadata"]["annotations"]
    api.wait(lambda: len(api.objects("Event")) == 2)
    assert {each["involvedObject"]["uid"] for each in api.objects("Event")} == {"uid-p"}
    assert world.call("DEL", pod, CNI_ARGS=args) == DONE
    assert world.nothing_left(pod)
