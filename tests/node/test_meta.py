"""Pods with several networks, made by the agent and real plugins: interfaces, reports, and cleanup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.node.calling import DONE, Answer
from tests.node.conftest import PATIENCE, ROOT
from tests.node.pods import Config, World
from wirespeed.cni.errors import Code

EVERYWHERE = {"dst": "0.0.0.0/0"}


# Attaching


def test_pod_has_its_interfaces_in_order_and_the_runtime_the_masters_result(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    result = world.add(pod)
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"], "net2": ["10.3.0.2/24"]}
    assert result["cniVersion"] == "1.0.0"
    assert [i["name"] for i in result["interfaces"] if i.get("sandbox") == pod.netns.path] == ["eth0"]
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/24"]
    assert result["routes"] == [EVERYWHERE]
    assert world.leases() == {"10.1.0.2": "c-p eth0", "10.2.0.2": "c-p net1", "10.3.0.2": "c-p net2"}
    assert world.rows() == dict.fromkeys([("c-p", "eth0"), ("c-p", "net1"), ("c-p", "net2")], "added")


def test_network_status_tells_each_attachment(world: World) -> None:
    pod = world.pod("p", [{"name": "bridged", "interface": "fast"}, {"name": "ptp"}])
    world.add(pod)
    links = pod.links()
    assert world.status(pod) == [
        {
            "name": "pods",
            "interface": "eth0",
            "ips": ["10.1.0.2"],
            "mac": links["eth0"]["address"],
            "default": True,
            "dns": {},
            "gateway": ["10.1.0.1"],
        },
        {
            "name": "default/bridged",
            "interface": "fast",
            "ips": ["10.2.0.2"],
            "mac": links["fast"]["address"],
            "dns": {},
        },
        {
            "name": "default/ptp",
            "interface": "net2",
            "ips": ["10.3.0.2"],
            "mac": links["net2"]["address"],
            "dns": {},
        },
    ]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.1.0"])
def test_result_is_in_the_runtimes_version_whatever_the_networks_speak(world: World, version: str) -> None:
    result = world.add(world.pod("p"), {**world.config, "cniVersion": version})
    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == (version < "1.0.0")


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0"])
def test_runtime_and_networks_of_the_oldest_versions_or_without_one_are_served(world: World, version: str) -> None:
    """As with the configuration in the ConfigMap of Multus' manifests, which has no cniVersion."""
    spoken = version or "0.1.0"
    world.script("side")
    world.define("old", {"cniVersion": version, "plugins": [world.bridge("10.4.0.0/24"), {"type": "tuning"}]})
    seen = [world.bridge("10.5.0.0/24", "10.77.0.0/16"), {"type": "side"}]
    world.define("seen", {"cniVersion": version, "plugins": seen})
    master = {"Name": "pods", "Plugins": [world.bridge("10.1.0.0/24", "0.0.0.0/0"), {"Type": "portmap"}]}
    config: Config = {"cniVersion": version, "name": "multus-cni-network", "type": "multus"}
    config |= {"BinDir": str(world.bin), "delegates": [master | ({"cniVersion": version} if version else {})]}
    pod = world.pod("p", "old,bridged,seen")
    assert world.add(pod, config) == {
        "cniVersion": spoken,
        "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "dns": {},
    }
    expected = {"eth0": "10.1.0.2", "net1": "10.4.0.2", "net2": "10.2.0.2", "net3": "10.5.0.2"}
    assert pod.addresses() == {ifname: [f"{address}/24"] for ifname, address in expected.items()}
    ((_, told),) = world.calls("side", "ADD")
    assert told["cniVersion"] == spoken
    assert told["prevResult"]["ip4"] == {
        "ip": "10.5.0.2/24",
        "gateway": "10.5.0.1",
        "routes": [{"dst": "10.77.0.0/16"}],
    }
    reported = {entry["interface"]: entry.get("ips") for entry in world.status(pod) or []}
    del expected["net3"]  # its last plugin returns no address
    assert reported == {"net3": None} | {ifname: [address] for ifname, address in expected.items()}
    code, message = world.refused("CHECK", pod, config)
    assert (code, message) == (1, f'key "cniVersion": expected 0.4.0 or newer for CHECK, got {spoken!r}')
    # with a runtime that supports CHECK, the old networks have nothing to check
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod, config) == DONE
    ((_, told),) = world.calls("side", "DEL")
    assert "prevResult" not in told
    world.nothing_left(pod)


def test_delegate_marked_masterplugin_makes_the_first_interface(world: World) -> None:
    first = world.conflist("first", world.bridge("10.4.0.0/24"))
    second = {**world.conflist("second", world.bridge("10.5.0.0/24")), "masterplugin": True}
    third = world.conflist("third", world.bridge("10.6.0.0/24"))
    pod = world.pod("p", "bridged")
    result = world.add(pod, {**world.config, "delegates": [first, second, third]})
    assert result["ips"][0]["address"] == "10.5.0.2/24"
    assert pod.addresses() == {
        "eth0": ["10.5.0.2/24"],
        "net1": ["10.4.0.2/24"],
        "net2": ["10.6.0.2/24"],
        "net3": ["10.2.0.2/24"],
    }


def test_cluster_network_and_default_networks_are_definitions_and_system_pods_get_the_master_alone(
    world: World,
) -> None:
    world.define("main", world.conflist("main", world.bridge("10.4.0.0/24")), namespace="kube-system")
    world.define("more", world.conflist("more", world.bridge("10.5.0.0/24")), namespace="kube-system")
    config = {key: value for key, value in world.config.items() if key != "delegates"}
    config |= {"clusterNetwork": "main", "defaultNetworks": ["more"]}
    pod = world.pod("p", "bridged")
    world.add(pod, config)
    assert pod.addresses() == {"eth0": ["10.4.0.2/24"], "net1": ["10.5.0.2/24"], "net2": ["10.2.0.2/24"]}
    status = world.status(pod)
    assert status is not None
    assert [entry["name"] for entry in status] == ["kube-system/main", "kube-system/more", "default/bridged"]
    system = world.pod("s", namespace="kube-system")
    world.add(system, config)
    assert list(system.links()) == ["eth0"]


def test_pod_may_choose_another_master(world: World) -> None:
    world.define("other", world.conflist("other", world.bridge("10.4.0.0/24")), namespace="kube-system")
    pod = world.pod("p", "bridged", **{"v1.multus-cni.io/default-network": "other"})
    assert world.add(pod)["ips"][0]["address"] == "10.4.0.2/24"
    assert pod.addresses() == {"eth0": ["10.4.0.2/24"], "net1": ["10.2.0.2/24"]}
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_same_network_twice_is_two_attachments(world: World) -> None:
    pod = world.pod("p", "bridged,bridged@again")
    world.add(pod)
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"], "again": ["10.2.0.3/24"]}
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_macvlan_with_tuning_gets_the_address_and_mac_that_the_pod_asks_for(world: World) -> None:
    world.node.run("ip", "link", "add", "up0", "type", "bridge")
    world.node.run("ip", "link", "set", "up0", "up")
    macvlan = {"type": "macvlan", "master": "up0", "ipam": {"type": "static"}, "capabilities": {"ips": True}}
    world.define("mac", world.conflist("mac", macvlan, {"type": "tuning", "capabilities": {"mac": True}}))
    pod = world.pod("p", [{"name": "mac", "ips": ["10.9.0.7/24"], "mac": "02:00:00:00:00:77"}])
    world.add(pod)
    assert pod.addresses()["net1"] == ["10.9.0.7/24"]
    assert pod.links()["net1"]["address"] == "02:00:00:00:00:77"
    assert world.call("CHECK", pod) == DONE


@pytest.mark.parametrize("ipam", ["static", "host-local"])
def test_address_reaches_an_ipam_that_reads_cni_args_without_the_capability(world: World, ipam: str) -> None:
    how = {"type": "static"} if ipam == "static" else world.ipam("10.9.0.0/24")
    world.define("plain", world.conflist("plain", {"type": "bridge", "bridge": "br9", "ipam": how}))
    pod = world.pod("p", [{"name": "plain", "ips": ["10.9.0.7/24"]}])
    world.add(pod)
    assert pod.addresses()["net1"] == ["10.9.0.7/24"]


def test_plugin_of_the_agents_process_stands_among_executed_ones(world: World) -> None:
    world.script("last")
    probe = {"type": "probe"}
    world.define("mixed", world.conflist("mixed", world.bridge("10.4.0.0/24"), probe, {"type": "last"}))
    pod = world.pod("p", "mixed")
    world.add(pod)
    _, config = world.calls("last")[0]
    assert config["prevResult"]["interfaces"] == [{"name": "net1", "sandbox": pod.netns.path}]
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_runtime_without_pods_gets_what_the_configuration_says(world: World) -> None:
    pod = world.pod("p", "bridged")
    assert world.add(pod, CNI_ARGS="")["ips"][0]["address"] == "10.1.0.2/24"
    assert list(pod.links()) == ["eth0"]
    assert world.status(pod) is None
    assert world.call("DEL", pod, CNI_ARGS="") == DONE
    world.nothing_left(pod)


def test_what_one_process_attached_another_checks_and_removes(world: World) -> None:
    """The plugin as an executable without the agent uses the same journal."""

    def alone(verb: str) -> Answer:
        environ = world.environ(verb, pod) | {
            "WIRESPEED_CONFIG": str(world.agent.config),
            "PATH": os.environ["PATH"],
        }
        run = subprocess.run(
            ["nsenter", f"--net={world.node.path}", sys.executable, "-m", "wirespeed", "cni", "wirespeed"],
            env=environ,
            cwd=ROOT,
            input=json.dumps(world.config).encode(),
            stdout=subprocess.PIPE,
            check=False,
        )
        return Answer(run.returncode, json.loads(run.stdout) if run.stdout else {})

    pod = world.pod("p", "bridged")
    assert alone("ADD").body["ips"][0]["address"] == "10.1.0.2/24"
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"]}
    assert world.call("CHECK", pod) == alone("CHECK") == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)
    world.add(pod)
    assert alone("DEL") == DONE
    world.nothing_left(pod)


# What each plugin receives


def test_requests_of_the_runtime_go_to_the_master_alone_and_those_of_the_pod_to_its_network(world: World) -> None:
    every = {"mac": True, "ips": True, "portMappings": True, "bandwidth": True}
    for name in ("main", "side", "aside"):
        world.script(name)
    master = {"cniVersion": "1.0.0", "name": "m", "type": "main", "capabilities": {**every, "io.x.own": True}}
    world.define("side", {"cniVersion": "1.0.0", "type": "side", "capabilities": every})
    world.define("aside", {"cniVersion": "1.0.0", "type": "aside", "capabilities": {**every, "mac": False}})
    asked = {
        "name": "side",
        "mac": "c2:11:22:33:44:66",
        "ips": ["10.0.0.1"],
        "bandwidth": {"ingressRate": 2048, "egressBurst": 1600},
        "portMappings": [{"hostPort": 8000, "containerPort": 8001, "protocol": "UDP"}],
        "cni-args": {"mode": "fast"},
    }
    runtime = {"portMappings": [{"hostPort": 80, "containerPort": 80}], "io.x.own": {"a": 1}, "dns": {}}
    config = {**world.config, "delegates": [master], "runtimeConfig": runtime}
    pod = world.pod("p", [asked, {"name": "aside"}])
    world.add(pod, config, CNI_ARGS=f"{pod.args};MYARG=a=b;IP=10.1.0.9;MAC=02:00:00:00:00:09")

    (environ, given), *_ = world.calls("main")
    assert given["runtimeConfig"] == {"portMappings": runtime["portMappings"], "io.x.own": {"a": 1}}
    sent = environ["CNI_ARGS"].split(";")
    assert sorted(sent) == sorted([*pod.args.split(";"), "MYARG=a=b", "IP=10.1.0.9", "MAC=02:00:00:00:00:09"])
    (environ, given), *_ = world.calls("side")
    assert given["runtimeConfig"] == {
        "mac": "c2:11:22:33:44:66",
        "ips": ["10.0.0.1"],
        "bandwidth": {"ingressRate": 2048, "egressBurst": 1600},
        "portMappings": [{"hostPort": 8000, "containerPort": 8001, "protocol": "udp"}],
    }
    assert given["args"] == {"cni": {"mode": "fast"}}
    assert sorted(environ["CNI_ARGS"].split(";")) == sorted([*pod.args.split(";"), "MYARG=a=b"])
    assert environ["CNI_IFNAME"] == "net1"
    assert environ["CNI_PATH"].split(":") == [str(world.bin), "/usr/lib/cni"]
    (_, given), *_ = world.calls("aside")
    assert "runtimeConfig" not in given
    assert "args" not in given


def test_delete_and_check_give_a_plugin_what_add_gave_it(world: World) -> None:
    world.script("side")
    world.define("side", {"cniVersion": "1.0.0", "type": "side", "capabilities": {"mac": True}})
    pod = world.pod("p", [{"name": "side", "mac": "02:00:00:00:00:01", "cni-args": {"mode": "fast"}}])
    world.add(pod)
    world.pod("p", "ptp")  # later changes of the annotation have no effect
    world.define("side", {"cniVersion": "1.0.0", "type": "other"})
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod, CNI_ARGS="") == DONE
    (added_in, added), (checked_in, checked), (deleted_in, deleted) = world.calls("side")
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "sandbox": pod.netns.path}],
        "dns": {},
    }
    assert checked == deleted == {**added, "prevResult": previous}
    assert added_in["CNI_ARGS"] == checked_in["CNI_ARGS"] == deleted_in["CNI_ARGS"]


# The default route


def defaults(routes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(route.get("gateway", ""), route["dev"]) for route in routes if route["dst"] == "default"]


def test_default_route_moves_to_the_network_that_asks_for_it(world: World) -> None:
    world.config["delegates"] = [
        world.conflist("pods", world.bridge("10.1.0.0/24", "0.0.0.0/0", "10.77.0.0/16 10.1.0.1")),
    ]
    pod = world.pod("p", [{"name": "bridged", "default-route": ["10.2.0.1"]}, {"name": "ptp"}])
    result = world.add(pod)
    assert defaults(pod.routes()) == [("10.2.0.1", "net1")]
    assert result["routes"] == [{"dst": "10.77.0.0/16", "gw": "10.1.0.1"}]
    status = world.status(pod)
    assert status is not None
    assert [entry.get("gateway") for entry in status] == [None, ["10.2.0.1"], None]
    assert world.recorded(pod, "eth0")["routes"] == result["routes"]
    assert world.recorded(pod, "net1")["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.2.0.1"}]
    assert world.call("CHECK", pod) == DONE

    pod.netns.run("ip", "route", "replace", "default", "via", "10.1.0.1", "dev", "eth0")
    code, message = world.refused("CHECK", pod)
    assert code == Code.DRIFT
    assert message == (
        "network default/bridged (net1): default route: expected the IPv4 default route through net1 to go to "
        "10.2.0.1"
    )
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_default_route_of_one_family_leaves_the_other_familys_alone(world: World) -> None:
    six = {
        "type": "host-local",
        "dataDir": str(world.folder / "leases"),
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [EVERYWHERE, {"dst": "::/0"}],
    }
    world.config["delegates"] = [
        world.conflist("pods", {"type": "bridge", "bridge": "br1", "isGateway": True, "ipam": six})
    ]
    pod = world.pod("p", [{"name": "bridged", "default-route": ["10.2.0.1"]}])
    result = world.add(pod)
    assert defaults(pod.routes()) == [("10.2.0.1", "net1")]
    assert defaults(pod.routes("-6")) == [("fd00:1::1", "eth0")]
    assert result["routes"] == [{"dst": "::/0"}]
    assert world.call("DEL", pod) == DONE

    both = world.pod("q", [{"name": "bridged", "default-route": ["10.2.0.1", "fd00:2::1"]}])
    world.define("bridged", world.conflist("bridged", world.bridge("10.2.0.0/24"), {"type": "add6"}))
    world.script(
        "add6", "[ $CNI_COMMAND = ADD ] && nsenter --net=$CNI_NETNS ip addr add fd00:2::2/64 dev net1 nodad"
    )
    assert "routes" not in world.add(both)
    assert defaults(both.routes()) == [("10.2.0.1", "net1")]
    assert defaults(both.routes("-6")) == [("fd00:2::1", "net1")]


def test_empty_default_route_leaves_the_networks_own_alone_in_the_pod(world: World) -> None:
    world.define("bridged", world.conflist("bridged", world.bridge("10.2.0.0/24", "10.88.0.0/16")))
    world.define("own", world.conflist("own", world.bridge("10.4.0.0/24", isDefaultGateway=True)))
    config = {**world.config, "delegates": [world.conflist("pods", world.bridge("10.1.0.0/24", "10.77.0.0/16"))]}
    pod = world.pod("p", [{"name": "own", "default-route": []}])
    result = world.add(pod, config)
    assert defaults(pod.routes()) == [("10.4.0.1", "net1")]
    assert result["routes"] == [{"dst": "10.77.0.0/16"}]

    none = world.pod("q", [{"name": "bridged", "default-route": []}])
    code, message = world.refused("ADD", none)
    assert code == Code.INTERFACE
    assert message == (
        'pod default/q: network default/bridged (net1): key "default-route": no plugin created a default route '
        "through net1; expected a gateway"
    )
    world.nothing_left(none)


def test_gateway_that_is_asked_for_replaces_the_networks_own(world: World) -> None:
    world.define("own", world.conflist("own", world.bridge("10.4.0.0/24", isDefaultGateway=True)))
    pod = world.pod("p", [{"name": "own", "default-route": ["10.4.0.9"]}])
    world.add(pod)
    assert defaults(pod.routes()) == [("10.4.0.9", "net1")]
    status = world.status(pod)
    assert status is not None
    assert status[1]["gateway"] == ["10.4.0.9"]


def test_gateway_that_cannot_be_reached_is_refused_and_everything_undone(world: World) -> None:
    pod = world.pod("p", [{"name": "bridged", "default-route": ["10.99.0.1"]}])
    code, message = world.refused("ADD", pod)
    assert code == Code.INTERFACE
    assert message.startswith(
        "pod default/p: network default/bridged (net1): default route: via 10.99.0.1 on net1: Network is unreach"
    )
    world.nothing_left(pod)


# Rejected calls


def test_refused_add_changes_nothing(world: World) -> None:
    pod = world.pod("p", [{"name": "bridged", "interface": "net2"}, {"name": "ptp"}])
    assert world.refused("ADD", pod) == (
        Code.INTERFACE,
        'pod default/p: key "interface": network default/bridged and network default/ptp would both be interface '
        "net2; expected another name for one of them",
    )
    world.nothing_left(pod)
    assert world.veths() == []
    assert world.status(pod) is None


@pytest.mark.parametrize("how", ["name", "altname"])
def test_interface_that_the_pod_has_already_is_refused_before_the_first_change(world: World, how: str) -> None:
    pod = world.pod("p", "bridged,ptp")
    pod.netns.run("ip", "link", "add", "net2" if how == "name" else "other", "type", "bridge")
    if how == "altname":
        pod.netns.run("ip", "link", "property", "add", "dev", "other", "altname", "net2")
    before = list(pod.links())
    assert world.refused("ADD", pod) == (
        Code.INTERFACE,
        f"pod default/p: network default/ptp (net2): network namespace {pod.netns.path} has an interface net2 "
        "already",
    )
    assert list(pod.links()) == before
    assert (world.rows(), world.leases(), world.veths()) == ({}, {}, [])


def test_second_add_is_refused_and_leaves_the_first_ones_interfaces(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    pod.netns.run("ip", "link", "del", "eth0")
    pod.netns.run("ip", "link", "del", "net1")
    code, message = world.refused("ADD", pod)
    assert code == Code.INTERFACE
    assert message == "pod default/p: container c-p is already attached (eth0, net1); DEL it first"
    assert world.rows() == {("c-p", "eth0"): "added", ("c-p", "net1"): "added"}


def test_plugin_of_the_agents_process_that_cannot_be_made_is_refused_before_the_first_change(world: World) -> None:
    world.define("broken", {"cniVersion": "1.0.0", "type": "broken"})
    pod = world.pod("p", "bridged,broken")
    assert world.refused("ADD", pod) == (
        Code.INTERNAL,
        "pod default/p: network default/broken (net2): plugin broken: cannot be created: RuntimeError: this plugin "
        "cannot be made",
    )
    assert (world.rows(), world.leases(), world.veths()) == ({}, {}, [])


def test_pod_that_the_cluster_does_not_know_is_to_be_tried_again(world: World) -> None:
    pod = world.pod("p", "bridged")
    (world.folder / "manifests/Pod-default-p.json").unlink()
    code, message = world.refused("ADD", pod)
    assert code == Code.TRY_AGAIN_LATER
    assert message == f"pod default/p: Pod default/p: no manifest in {world.folder}/manifests defines it"
    other = world.pod("q")
    code, message = world.refused("ADD", other, CNI_ARGS=other.args.replace("uid-q", "uid-before"))
    assert code == Code.TRY_AGAIN_LATER
    assert message.endswith("is uid-q, not uid-before")
    assert world.rows() == {}


def test_sandbox_without_a_network_namespace_is_refused(world: World) -> None:
    pod = world.pod("p", "bridged")
    code, message = world.refused("ADD", pod, CNI_NETNS="/run/netns/none")
    assert code == Code.UNKNOWN_CONTAINER
    assert message == "pod default/p: network namespace /run/netns/none: No such file or directory"


# Failures and rollback


@pytest.mark.parametrize("annotation", ["bridged,ptp,bad", "bad,bridged"])
def test_failing_network_has_all_undone_and_is_named_with_its_code(world: World, annotation: str) -> None:
    tuning = {"type": "tuning", "sysctl": {"net.no_such_key": "1"}}
    world.define("bad", world.conflist("bad", world.bridge("10.4.0.0/24"), tuning))
    pod = world.pod("p", annotation)
    code, message = world.refused("ADD", pod)
    assert code == 999  # the code of libcni-based plugins for an error without a code
    ifname = "net3" if annotation.endswith("bad") else "net1"
    assert message.startswith(f"pod default/p: network default/bad ({ifname}): plugin tuning: ")
    assert "no_such_key" in message
    world.nothing_left(pod)
    assert world.veths() == []
    assert world.status(pod) is None


def test_networks_are_undone_once_each_from_the_failing_one_backwards(world: World) -> None:
    for name in ("one", "two"):
        world.script(name)
        world.define(name, {"cniVersion": "1.0.0", "type": name})
    world.fail("two", "ADD", {"code": 11, "msg": "not now", "details": "soon"})
    pod = world.pod("p", "one,two")
    answer = world.call("ADD", pod)
    assert answer.body == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "pod default/p: network default/two (net2): plugin two: not now",
        "details": "soon",
    }
    verbs = [(environ["CNI_COMMAND"], environ["CNI_IFNAME"]) for environ, _ in world.calls("*")]
    assert verbs == [("ADD", "net1"), ("ADD", "net2"), ("DEL", "net2"), ("DEL", "net1")]
    world.nothing_left(pod)


def test_what_could_not_be_undone_stays_for_the_delete_that_follows(world: World) -> None:
    for name in ("one", "two"):
        world.script(name)
        world.define(name, {"cniVersion": "1.0.0", "type": name})
    world.fail("two", "ADD", {"code": 11, "msg": "not now"})
    world.fail("one", "DEL", {"code": 110, "msg": "stuck"})
    pod = world.pod("p", "one,two")
    code, message = world.refused("ADD", pod)
    assert code == 11
    assert message == (
        "pod default/p: network default/two (net2): plugin two: not now; not undone: network default/one (net1): "
        "plugin one: stuck"
    )
    assert world.rows() == {("c-p", "net1"): "deleting"}
    assert world.refused("DEL", pod) == (110, "network default/one (net1): plugin one: stuck")
    assert world.rows() == {("c-p", "net1"): "deleting"}
    world.fail("one", "DEL", None)
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_network_whose_own_undoing_failed_is_deleted_again_at_once(world: World) -> None:
    world.script(
        "once",
        f"""[ $CNI_COMMAND = DEL ] && mkdir {world.folder}/tried && exit 1
[ $CNI_COMMAND = ADD ] && exit 1""",
    )
    world.define("once", {"cniVersion": "1.0.0", "type": "once"})
    pod = world.pod("p", "once")
    code, message = world.refused("ADD", pod)
    assert code == Code.PLUGIN
    assert "undoing it failed: plugin once: exit status 1" in message
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("once")] == ["ADD", "DEL", "DEL"]
    world.nothing_left(pod)


def test_network_status_that_cannot_be_written_has_all_undone(world: World) -> None:
    (world.folder / "manifests/.status").write_text("in the way")
    pod = world.pod("p", "bridged")
    code, message = world.refused("ADD", pod)
    assert code == Code.IO_FAILURE
    assert message.startswith("pod default/p: network-status: network-status ")
    world.nothing_left(pod)
    assert world.veths() == []


def test_add_past_its_deadline_is_undone(world: World) -> None:
    world.agent.stop()
    world.restart(deadline=3.0)
    world.script("slow", f"[ $CNI_COMMAND = ADD ] && exec sleep {PATIENCE}")
    world.define("slow", {"cniVersion": "1.0.0", "type": "slow"})
    config = {**world.config, "delegates": [{"cniVersion": "1.0.0", "name": "pods", "type": "probe"}]}
    pod = world.pod("p", "slow")
    code, message = world.refused("ADD", pod, config)
    assert code == Code.TRY_AGAIN_LATER
    assert message == (
        "pod default/p: network default/slow (net1): plugin slow: ADD took longer than its deadline and was killed"
    )
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("slow")] == ["ADD", "DEL"]
    world.nothing_left(pod)


# DEL and CHECK


def test_delete_leaves_nothing_and_a_second_one_is_a_success(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)
    assert world.veths() == []
    assert world.call("DEL", pod) == DONE


def test_delete_attempts_every_network_from_the_last_one_and_keeps_the_first_error(world: World) -> None:
    for name in ("one", "two", "three"):
        world.script(name)
        world.define(name, {"cniVersion": "1.0.0", "type": name})
    pod = world.pod("p", "one,two,three")
    world.add(pod)
    world.fail("three", "DEL", {"code": 11, "msg": "busy", "details": "soon"})
    world.fail("one", "DEL", {"code": 110, "msg": "stuck"})
    answer = world.call("DEL", pod)
    assert answer.body["code"] == 11
    assert answer.body["details"] == "soon"
    assert answer.body["msg"] == (
        "network default/three (net3): plugin three: busy; also network default/one (net1): plugin one: stuck"
    )
    assert [environ["CNI_IFNAME"] for environ, _ in world.calls("*", "DEL")] == ["net3", "net2", "net1"]
    assert world.rows() == {("c-p", "net1"): "deleting", ("c-p", "net3"): "deleting"}
    assert pod.links() == {}


def test_delete_after_the_network_namespace_is_gone_gives_the_addresses_back(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    pod.netns.delete()
    assert world.call("DEL", pod, CNI_NETNS="") == DONE
    assert (world.rows(), world.leases()) == ({}, {})


def test_late_delete_leaves_alone_who_has_the_path_of_the_namespace_now(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    pod.netns.delete()
    pod.netns.add()
    for name in ("eth0", "net1"):
        pod.netns.run("ip", "link", "add", name, "type", "bridge")
    assert world.call("DEL", pod) == DONE
    assert list(pod.links()) == ["eth0", "net1"]
    assert (world.rows(), world.leases()) == ({}, {})


def test_delete_for_one_of_the_runtimes_interfaces_leaves_the_others(world: World) -> None:
    pod = world.pod("p")
    world.add(pod)
    other = {**world.config, "name": "other", "delegates": [world.conflist("b", world.bridge("10.4.0.0/24"))]}
    world.add(pod, other, CNI_IFNAME="eth1")
    assert world.call("DEL", pod, CNI_IFNAME="eth0") == DONE
    assert list(pod.links()) == ["eth1"]
    assert world.call("CHECK", pod, other, CNI_IFNAME="eth1") == DONE


@pytest.mark.parametrize("ifname", ["eth0", "net1", "net2"])
def test_check_finds_a_removed_interface(world: World, ifname: str) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    assert world.call("CHECK", pod) == DONE
    pod.netns.run("ip", "link", "del", ifname)
    _, message = world.refused("CHECK", pod)
    labels = {"eth0": "pods", "net1": "default/bridged", "net2": "default/ptp"}
    assert message.startswith(f"network {labels[ifname]} ({ifname}): plugin ")


def test_check_of_what_was_never_attached_is_an_unknown_container(world: World) -> None:
    assert world.refused("CHECK", world.pod("p")) == (
        Code.UNKNOWN_CONTAINER,
        "container c-p eth0: not attached",
    )


# STATUS


def test_status_is_well_while_a_pod_could_be_attached(world: World) -> None:
    assert world.runtime("STATUS") == DONE


def test_status_names_what_is_missing(world: World) -> None:
    config = {**world.config, "delegates": [world.conflist("pods", {"type": "absent"})]}
    status, body = world.runtime("STATUS", config=config)
    assert (status, body["code"]) == (1, Code.UNAVAILABLE)
    assert body["msg"].startswith('network pods: plugin absent: no executable "absent" in ')


def test_status_keeps_the_plugins_own_code(world: World) -> None:
    world.script("main")
    world.fail("main", "STATUS", {"code": 51, "msg": "half of it"})
    config = {**world.config, "delegates": [{"cniVersion": "1.1.0", "name": "pods", "type": "main"}]}
    status, body = world.runtime("STATUS", config=config)
    assert (status, body["code"], body["msg"]) == (1, 51, "network pods: plugin main: half of it")
    world.fail("main", "STATUS", None)
    assert world.runtime("STATUS", config=config) == DONE
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("main")] == ["STATUS", "STATUS"]


def test_status_of_a_cluster_that_cannot_be_read_is_unavailable(world: World) -> None:
    (world.folder / "manifests").rename(world.folder / "away")
    status, body = world.runtime("STATUS")
    assert (status, body["code"]) == (1, Code.UNAVAILABLE)
    assert body["msg"] == f"manifests in {world.folder}/manifests: No such file or directory"


def test_status_of_a_journal_that_nobody_would_find_is_unavailable(world: World) -> None:
    other = world.agent.state.with_name("other")
    other.touch()
    other.replace(world.agent.state)  # replaced, because a file that is only deleted is created anew
    status, body = world.runtime("STATUS")
    assert (status, body["code"]) == (1, Code.UNAVAILABLE)
    assert body["msg"] == f"journal {world.agent.state}: another file has taken its place"
