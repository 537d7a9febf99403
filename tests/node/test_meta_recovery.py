"""Pods after crashes, lost journals and GC; their devices; and twenty pods at once."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node.calling import DONE, Events, Gate, open_files, until
from tests.node.conftest import PATIENCE
from tests.node.pods import Config, Pod, World
from tests.node.test_hotplug import refused as attach_refused
from tests.node.test_hotplug import run as attach
from wirespeed.cni.errors import Code
from wirespeed.kube import deviceinfo, rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.play.kubelet import Kubelet

VFS = "intel.com/vfs"


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    with Events(tmp_path) as told:
        yield told


# The agent is killed


def kill(world: World) -> None:
    world.agent.stop(signal.SIGKILL)


def test_delete_after_a_kill_within_an_add_leaves_nothing(world: World, events: Events, tmp_path: Path) -> None:
    """The second network is being attached by an in-process plugin."""
    gate = Gate(tmp_path / "gate")
    world.define(
        "held", {"cniVersion": "1.0.0", "type": "probe", "events": str(events.path), "gate": str(gate.path)}
    )
    pod = world.pod("p", "bridged,held,ptp")
    adding = world.begin("ADD", pod)
    assert events.next() == "begin ADD c-p"
    kill(world)
    assert adding.answer().body["code"] == Code.TRY_AGAIN_LATER
    assert world.rows() == {
        ("c-p", "eth0"): "added",
        ("c-p", "net1"): "added",
        ("c-p", "net2"): "adding",
        ("c-p", "net3"): "planned",
    }
    assert list(pod.links()) == ["eth0", "net1"]
    world.restart()
    code, message = world.refused("CHECK", pod, CNI_IFNAME="eth0")
    assert code == Code.DRIFT
    assert message == (
        "network default/held (net2): its ADD or DEL did not finish: it is adding; also "
        "network default/ptp (net3): its ADD or DEL did not finish: it is planned"
    )
    deleting = world.begin("DEL", pod)
    assert events.next() == "begin DEL c-p"
    gate.open()
    assert deleting.answer() == DONE
    world.nothing_left(pod)
    assert world.veths() == []


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_plugin_that_a_killed_agent_left_running_is_ended_before_its_work_is_undone(
    world: World, tmp_path: Path, verb: str
) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    os.mkfifo(begun)
    os.mkfifo(gate)
    late = "ip link add late type veth peer name later netns"
    waits = f"{{ echo > {begun}; read go < {gate}; {late} $CNI_NETNS; }}"
    world.script("slow", f"[ $CNI_COMMAND = {verb} ] && mkdir {tmp_path}/once && {waits}")
    world.define("slow", {"cniVersion": "1.0.0", "type": "slow"})
    pod = world.pod("p", "slow")
    if verb == "DEL":
        world.add(pod)
    call = world.begin(verb, pod)
    assert begun.read_text() == "\n"
    kill(world)
    assert call.answer().body["code"] == Code.TRY_AGAIN_LATER
    world.restart()
    assert world.call("DEL", pod) == DONE
    world.agent.wait_log("container c-p: process ", "a plugin executed by a killed agent, still runs: killing it")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):  # the plugin was killed, so nobody reads the fifo
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    world.nothing_left(pod)


def test_delete_after_a_kill_within_a_delete_finishes_it(world: World, events: Events, tmp_path: Path) -> None:
    held = {"cniVersion": "1.0.0", "type": "probe", "events": str(events.path)}
    world.define("held", held)
    pod = world.pod("p", "bridged,held,ptp")
    world.add(pod)
    assert [events.next(), events.next()] == ["begin ADD c-p", "end ADD c-p"]
    gate = Gate(tmp_path / "gate")
    with closing(sqlite3.connect(world.agent.state)) as journal:
        # The plugin must wait at the gate in DEL, not in ADD.
        journal.execute(
            "UPDATE attachment SET record = json_set(record, '$.delegate.raw.gate', ?) WHERE ifname = 'net2'",
            (str(gate.path),),
        )
        journal.commit()
    deleting = world.begin("DEL", pod)
    assert events.next() == "begin DEL c-p"
    kill(world)
    assert deleting.answer().body["code"] == Code.TRY_AGAIN_LATER
    assert world.rows() == {("c-p", "eth0"): "added", ("c-p", "net1"): "added", ("c-p", "net2"): "deleting"}
    world.restart()
    again = world.begin("DEL", pod)
    assert events.next() == "begin DEL c-p"
    gate.open()
    assert again.answer() == DONE
    world.nothing_left(pod)


def test_delete_without_a_journal_gives_back_the_addresses_of_the_configurations_networks(world: World) -> None:
    """As after a reboot, when the runtime cleans up its earlier pods."""
    config = {
        **world.config,
        "delegates": [*world.config["delegates"], world.conflist("second", world.bridge("10.4.0.0/24"))],
    }
    pod = world.pod("p")
    world.add(pod, config)
    assert set(world.leases()) == {"10.1.0.2", "10.4.0.2"}
    lose_journal(world)
    assert world.call("DEL", pod, config) == DONE
    assert world.leases() == {}
    # the namespace may belong to another pod now, so its interfaces are kept
    assert set(pod.links()) == {"eth0", "net1"}


def lose_journal(world: World) -> None:
    """Delete the journal and the records."""
    kill(world)
    for path in world.agent.state.parent.glob("state.db*"):
        path.unlink()
    shutil.rmtree(world.records)
    world.restart()


def test_delete_without_a_journal_fails_where_addresses_could_not_be_given_back(world: World) -> None:
    for name in ("one", "two"):
        world.script(name)
    delegates = [{"cniVersion": "1.0.0", "name": name, "type": name} for name in ("one", "two")]
    config = {**world.config, "delegates": delegates}
    world.fail("two", "DEL", {"code": 11, "msg": "locked"})
    pod = world.pod("p")
    assert world.refused("DEL", pod, config) == (11, "network two (net1): plugin two: locked")
    assert [environ.get("CNI_NETNS") for environ, _ in world.calls("*")] == [None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"delegates": [{"cniVersion": "1.0.0", "name": "pods", "type": "absent"}]},
        {"delegates": [{"name": "pods"}]},
        {"delegates": [], "clusterNetwork": "absent"},
        {"delegates": []},
        {"colour": "blue"},
    ],
)
def test_delete_of_what_was_refused_is_a_success_whatever_is_wrong_with_the_configuration(
    world: World, change: dict[str, Any]
) -> None:
    pod, config = world.pod("p"), {**world.config, **change}
    world.refused("ADD", pod, config)
    assert world.call("DEL", pod, config) == DONE


# GC


def test_gc_drops_what_the_runtime_no_longer_has(world: World) -> None:
    kept, gone = world.pod("kept", "bridged,ptp"), world.pod("gone", "bridged,ptp")
    world.add(kept)
    world.add(gone)
    assert world.runtime("GC", [("c-kept", "eth0")]) == DONE
    world.nothing_left(gone)
    assert world.rows() == dict.fromkeys([("c-kept", "eth0"), ("c-kept", "net1"), ("c-kept", "net2")], "added")
    assert set(kept.links()) == {"eth0", "net1", "net2"}
    assert set(world.leases().values()) == {"c-kept eth0", "c-kept net1", "c-kept net2"}
    assert world.call("CHECK", kept) == DONE


def test_gc_after_a_kill_within_an_add_drops_it(world: World, events: Events, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    world.define(
        "held", {"cniVersion": "1.0.0", "type": "probe", "events": str(events.path), "gate": str(gate.path)}
    )
    pod = world.pod("p", "bridged,held")
    adding = world.begin("ADD", pod)
    assert events.next() == "begin ADD c-p"
    kill(world)
    adding.answer()
    world.restart()
    with ThreadPoolExecutor() as other:
        collecting = other.submit(world.runtime, "GC")
        assert events.next() == "begin DEL c-p"
        gate.open()
        assert collecting.result() == DONE
    world.nothing_left(pod)


def test_gc_reaches_each_network_once_with_all_that_is_attached_to_it(world: World) -> None:
    for name in ("main", "side"):
        world.script(name)
    config = {**world.config, "delegates": [{"cniVersion": "1.1.0", "name": "pods", "type": "main"}]}
    # Two NetworkAttachmentDefinitions with the same network name: both have all attachments of this network.
    for name in ("side", "aside"):
        world.define(name, {"cniVersion": "1.1.0", "name": "shared", "type": "side", "as": name})
    for name, networks in (("a", "side,side"), ("b", "aside"), ("gone", "side")):
        world.add(world.pod(name, networks), config)
    assert world.runtime("GC", [("c-a", "eth0"), ("c-b", "eth0")], config) == DONE

    def valid(given: dict[str, Any]) -> list[tuple[str, str]]:
        assert given["cni.dev/attachments"] == given["cni.dev/valid-attachments"]
        return [(each["containerID"], each["ifname"]) for each in given["cni.dev/valid-attachments"]]

    ((environ, given),) = world.calls("main", "GC")
    assert valid(given) == [("c-a", "eth0"), ("c-b", "eth0")]
    assert "CNI_CONTAINERID" not in environ
    shared = world.calls("side", "GC")
    assert sorted(given["as"] for _, given in shared) == ["aside", "side"]
    for _, given in shared:
        assert valid(given) == [("c-a", "net1"), ("c-a", "net2"), ("c-b", "net1")]
    assert [environ["CNI_CONTAINERID"] for environ, _ in world.calls("side", "DEL")] == ["c-gone"]


def test_gc_of_one_configuration_leaves_the_attachments_of_another(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    assert world.runtime("GC", config={**world.config, "name": "another"}) == DONE
    assert world.call("CHECK", pod) == DONE


def test_gc_tells_networks_nothing_while_a_container_of_before_the_journal_lives(world: World) -> None:
    world.script("main")
    config = {**world.config, "delegates": [{"cniVersion": "1.1.0", "name": "pods", "type": "main"}]}
    gone = world.pod("gone")
    world.add(gone, config)
    assert world.runtime("GC", [("c-before", "eth0")], config) == DONE
    assert world.calls("main", "GC") == []
    world.nothing_left(gone)
    world.agent.wait_log("no GC of its networks, because 1 containers are not in the journal")


def test_gc_that_fails_keeps_the_row_and_attempts_the_others(world: World) -> None:
    world.script("side")
    world.define("side", {"cniVersion": "1.0.0", "type": "side"})
    stuck, gone = world.pod("a-stuck", "side"), world.pod("b-gone", "bridged")
    world.add(stuck)
    world.add(gone)
    world.fail("side", "DEL", {"code": 110, "msg": "stuck"})
    status, body = world.runtime("GC")
    assert (status, body["code"]) == (1, 110)
    assert body["msg"] == "container c-a-stuck: network default/side (net1): plugin side: stuck"
    assert world.rows() == {("c-a-stuck", "net1"): "deleting"}
    world.nothing_left(gone)
    world.fail("side", "DEL", None)
    assert world.runtime("GC") == DONE
    world.nothing_left(stuck)


# Devices


class Vfs:
    """A device plugin with three devices."""

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return dp.DevicePluginOptions()

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:
        ids = [f"0000:03:02.{number}" for number in (3, 1, 2)]
        yield dp.ListAndWatchResponse(devices=[dp.Device(ID=each, health="Healthy") for each in ids])
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    PreStartContainer = GetPreferredAllocation

    def Allocate(self, request: Any, context: Any) -> Any:
        return dp.AllocateResponse(container_responses=[dp.ContainerAllocateResponse()])


@pytest.fixture
def kubelet(world: World) -> Iterator[Kubelet]:
    """The kubelet of the world's agent, with three devices of intel.com/vfs."""
    service = Kubelet(world.folder / "kubelet")
    service.start()
    with ThreadPoolExecutor() as workers:
        handler = rpc.handler(dp.DESCRIPTOR.services_by_name["DevicePlugin"], Vfs())
        server = grpc.server(workers, handlers=[handler])
        path = world.folder / "kubelet/device-plugins/vfs.sock"
        server.add_insecure_port(f"unix:{path}")
        server.start()
        service.connect(VFS, path)
        service.wait_for(VFS, 3, PATIENCE)
        yield service
        service.stop()
        server.stop(None).wait()


def device_network(world: World, name: str, *, namespace: str = "default") -> None:
    """Define a network whose plugin is a script and which requests a device of intel.com/vfs."""
    world.script("taker")
    capabilities = {"deviceID": True, "CNIDeviceInfoFile": True}
    plugins: list[Config] = [{"type": "taker", "capabilities": capabilities}, {"type": "taker"}]
    world.define(name, world.conflist(name, *plugins), resource=VFS, namespace=namespace)


def test_each_network_gets_a_device_of_its_own_and_every_plugin_of_it_is_told(
    world: World, kubelet: Kubelet
) -> None:
    device_network(world, "vfs")
    pod = world.pod("p", "vfs,vfs")
    kubelet.allocate("default", "p", "main", VFS, 2)
    world.add(pod)
    given = [config for _, config in world.calls("taker", "ADD")]
    assert [config["deviceID"] for config in given] == ["0000:03:02.1"] * 2 + ["0000:03:02.2"] * 2
    assert [config["pciBusID"] for config in given] == [config["deviceID"] for config in given]
    files = [world.folder / f"devinfo/cni/default-vfs-c-p_{ifname}" for ifname in ("net1", "net2")]
    assert [config.get("runtimeConfig") for config in given] == [
        {"deviceID": "0000:03:02.1", "CNIDeviceInfoFile": str(files[0])},
        None,
        {"deviceID": "0000:03:02.2", "CNIDeviceInfoFile": str(files[1])},
        None,
    ]


def test_master_and_a_network_of_the_pod_share_one_allocator(world: World, kubelet: Kubelet) -> None:
    device_network(world, "main", namespace="kube-system")
    device_network(world, "side")
    config = {key: value for key, value in world.config.items() if key != "delegates"} | {"clusterNetwork": "main"}
    pod = world.pod("p", [{"name": "side"}, {"name": "side", "deviceID": "0000:03:02.1"}])
    kubelet.allocate("default", "p", "main", VFS, 3)
    world.add(pod, config)
    given = [(environ["CNI_IFNAME"], config["deviceID"]) for environ, config in world.calls("taker", "ADD")]
    assert given[::2] == [("eth0", "0000:03:02.2"), ("net1", "0000:03:02.3"), ("net2", "0000:03:02.1")]


def test_network_that_is_attached_later_gets_a_device_that_is_left(world: World, kubelet: Kubelet) -> None:
    device_network(world, "vfs")
    pod = world.pod("p", [{"name": "vfs", "deviceID": "0000:03:02.2"}])
    kubelet.allocate("default", "p", "main", VFS, 2)
    world.add(pod)
    assert attach(world, "attach", "p", "vfs") == "net2"
    given = [config["deviceID"] for _, config in world.calls("taker", "ADD")][::2]
    assert given == ["0000:03:02.2", "0000:03:02.1"]
    assert "no device of resource intel.com/vfs is left" in attach_refused(world, "attach", "p", "vfs")
    assert attach(world, "detach", "p", "net1") == "net1"
    assert attach(world, "attach", "p", "vfs") == "net1"
    assert world.calls("taker", "ADD")[-1][1]["deviceID"] == "0000:03:02.2"
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


@pytest.mark.parametrize(
    ("count", "annotation", "code", "message"),
    [
        (
            1,
            "vfs,vfs",
            Code.DEVICE,
            "network default/vfs: no device of resource intel.com/vfs is left for pod default/p: "
            "all 1 are attached already; each network that uses the resource needs one in the limits "
            "of a container",
        ),
        (
            0,
            "vfs",
            Code.DEVICE,
            "network default/vfs: no device of resource intel.com/vfs is left for pod default/p: "
            "it was given none; each network that uses the resource needs one in the limits of a container",
        ),
        (
            1,
            '[{"name":"bridged","deviceID":"0000:03:02.2"}]',
            Code.POLICY,
            'network default/bridged: key "deviceID": device 0000:03:02.2 was not given to pod default/p by the '
            "kubelet",
        ),
        (
            1,
            '[{"name":"vfs","deviceID":"0000:03:02.1"},{"name":"bridged","deviceID":"0000:03:02.1"}]',
            Code.POLICY,
            'network default/bridged: key "deviceID": device 0000:03:02.1 is requested twice',
        ),
    ],
)
def test_device_that_the_kubelet_did_not_give_is_refused_before_the_first_change(
    world: World, kubelet: Kubelet, count: int, annotation: str, code: Code, message: str
) -> None:
    device_network(world, "vfs")
    if count:
        kubelet.allocate("default", "p", "main", VFS, count)
    pod = world.pod("p", annotation)
    assert world.refused("ADD", pod) == (code, f"pod default/p: {message}")
    assert (world.rows(), world.leases(), world.veths()) == ({}, {}, [])


BRIDGE = "bridge.network.kubevirt.io/br0"  # counted by KubeVirt's bridge-marker in the status of nodes


def test_resource_that_no_device_plugin_serves_is_no_device(world: World, kubelet: Kubelet) -> None:
    world.script("taker")
    world.define("bridged", world.conflist("bridged", world.bridge("10.2.0.0/24")), resource=BRIDGE)
    world.define("other", world.conflist("other", {"type": "taker"}), resource=BRIDGE)
    pod = world.pod("p", "bridged,other,bridged")
    world.add(pod)
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"], "net3": ["10.2.0.3/24"]}
    ((environ, config),) = world.calls("taker", "ADD")
    assert (environ["CNI_IFNAME"], "deviceID" in config, "runtimeConfig" in config) == ("net2", False, False)
    assert attach(world, "attach", "p", "bridged") == "net4 10.2.0.4/24"
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_sriov_network_is_refused_without_a_device_whoever_serves_its_resource(
    world: World, kubelet: Kubelet
) -> None:
    for name, resource in (("served", VFS), ("counted", BRIDGE), ("nic", "sriov_nic_1")):
        world.define(name, {"cniVersion": "1.0.0", "type": "sriov"}, resource=resource)
        pod = world.pod(f"p-{name}", name)
        code, message = world.refused("ADD", pod)
        assert code == Code.DEVICE
        assert f"network default/{name}: no device of resource {resource} is left for pod default/p-" in message
        assert (world.rows(), world.leases(), world.veths()) == ({}, {}, [])


def test_network_that_may_use_a_device_is_refused_while_nobody_can_tell_whether_it_is_served(
    world: World, kubelet: Kubelet
) -> None:
    world.script("taker")
    world.define("other", world.conflist("other", {"type": "taker"}), resource=BRIDGE)
    pod = world.pod("p", "other")
    path = world.folder / "kubelet/pod-resources/kubelet.sock"
    kubelet.stop()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
    assert world.refused("ADD", pod)[0] == Code.TRY_AGAIN_LATER
    path.unlink()
    kubelet.start()
    world.add(pod)
    assert len(world.calls("taker", "ADD")) == 1


def test_kubelet_that_does_not_answer_is_to_be_tried_again_and_status_says_so(
    world: World, kubelet: Kubelet
) -> None:
    device_network(world, "vfs")
    device_network(world, "main", namespace="kube-system")
    config = {key: value for key, value in world.config.items() if key != "delegates"} | {"clusterNetwork": "main"}
    assert world.runtime("STATUS", config=config) == DONE
    path = world.folder / "kubelet/pod-resources/kubelet.sock"
    kubelet.stop()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as deaf:  # a kubelet that has died and left its socket behind
        deaf.bind(str(path))
    code, message = world.refused("ADD", world.pod("p", "vfs"))
    assert code == Code.TRY_AGAIN_LATER
    assert f"devices of pod default/p: the kubelet does not answer on {path}: UNAVAILABLE" in message
    status, body = world.runtime("STATUS", config=config)
    assert (status, body["code"]) == (1, Code.UNAVAILABLE)
    assert body["msg"].startswith(f"devices of pods: the kubelet does not answer on {path}: UNAVAILABLE")
    path.unlink()
    status, body = world.runtime("STATUS", config=config)
    assert (status, body["code"]) == (1, Code.UNAVAILABLE)
    assert body["msg"].startswith(f"neither {path} nor ")


def test_device_info_is_the_plugins_or_else_the_device_plugins_and_goes_with_the_attachment(
    world: World, kubelet: Kubelet
) -> None:
    theirs, own = deviceinfo.pci_info("0000:03:02.1"), '{"type":"vdpa","version":"1.1.0"}'
    deviceinfo.write(deviceinfo.dp_file(world.folder / "devinfo", VFS, "0000:03:02.1"), theirs)
    writes = f"""file={world.folder}/devinfo/cni/default-writes-$CNI_CONTAINERID"_"$CNI_IFNAME
[ $CNI_COMMAND = ADD ] && mkdir -p {world.folder}/devinfo/cni && echo '{own}' > $file"""
    device_network(world, "reads")
    world.script("writer", writes)
    world.define("writes", {"cniVersion": "1.0.0", "type": "writer"}, resource=VFS)
    pod = world.pod("p", "reads,writes")
    kubelet.allocate("default", "p", "main", VFS, 2)
    world.add(pod)
    status = world.status(pod)
    assert status is not None
    assert [entry.get("device-info") for entry in status] == [None, theirs, {"type": "vdpa", "version": "1.1.0"}]
    assert [path.name for path in (world.folder / "devinfo/cni").iterdir()] == ["default-writes-c-p_net2"]
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


# Many pods at once


def threads(world: World) -> int:
    return len(os.listdir(f"/proc/{world.agent.process.pid}/task"))


def descriptors(world: World) -> list[str]:
    return sorted(what.split(":")[0] for _, what in open_files(world.agent.process.pid))


def at_once(pods: list[Pod], call: Callable[[Pod], object]) -> list[object]:
    with ThreadPoolExecutor(len(pods)) as callers:
        return list(callers.map(call, pods))


def test_twenty_pods_at_once_leave_nothing_behind(world: World) -> None:
    pods = [world.pod(f"p{number}", "bridged,ptp") for number in range(20)]
    at_once(pods, world.add)
    assert at_once(pods, lambda pod: world.call("DEL", pod)) == [DONE] * 20
    until(lambda: descriptors(world) == descriptors(world), "with no connection that ends")
    links, files, running = world.node.links().keys(), descriptors(world), threads(world)

    at_once(pods, world.add)
    addresses = [addresses[0] for pod in pods for addresses in pod.addresses().values()]
    assert len(set(addresses)) == len(addresses) == 60
    assert len(world.rows()) == len(world.leases()) == 60
    assert at_once(pods, lambda pod: world.call("CHECK", pod)) == [DONE] * 20
    assert at_once(pods, lambda pod: world.call("DEL", pod)) == [DONE] * 20
    for pod in pods:
        world.nothing_left(pod)
    assert (world.rows(), world.leases()) == ({}, {})
    assert world.node.links().keys() == links
    until(lambda: descriptors(world) == files, "with the descriptors of before")
    assert threads(world) <= running + 20


# A switch that is not there


def test_attempts_on_a_node_without_its_switch_leave_nothing(world: World) -> None:
    """Each attempt of the runtime has a new sandbox. The agent has no Open vSwitch to ask."""
    switched = {"type": "wirespeed-vhost", "host": {"engine": "ovs-dpdk", "iftype": "vhostuser"}}
    world.define("switched", world.conflist("switched", switched))
    assert world.agent.stop() == 0
    world.restart(vhost={"ovsdb": f"unix:{world.folder}/none.sock"})
    pod = world.pod("p", "switched")
    for number in range(3):
        attempt = replace(pod, container=f"c-{number}")
        code, message = world.refused("ADD", attempt)
        assert code == Code.TRY_AGAIN_LATER
        assert "Open vSwitch" in message
        assert world.call("DEL", attempt) == DONE
    with closing(sqlite3.connect(f"file:{world.agent.state}?mode=ro", uri=True)) as journal:
        assert journal.execute("SELECT device, step FROM device").fetchall() == []
    assert world.rows() == {}
