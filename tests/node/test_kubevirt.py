"""Pods with the annotations of KubeVirt and OVN-Kubernetes, and a configuration taken over from Multus."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.node.calling import DONE
from tests.node.conftest import PATIENCE
from tests.node.pods import Config, World
from tests.node.test_hotplug import run

MAC = "02:9d:4c:00:00:01"
DEFAULT = "v1.multus-cni.io/default-network"
# ADD of OVN-Kubernetes' plugin, which assigns the addresses and the MAC from the pod's annotation.
ANSWER = """[ $CNI_COMMAND = ADD ] && {
mac=$(echo "$CNI_ARGS" | tr ';' '\\n' | sed -n s/^MAC=//p)
ip=$(echo "$CNI_ARGS" | tr ';' '\\n' | sed -n s/^IP=//p)
interface='{"name":"%s","sandbox":"%s","mac":"%s"}'
printf '{"cniVersion":"1.0.0","interfaces":['"$interface"'],"ips":[{"address":"%s","interface":0}]}' \\
  "$CNI_IFNAME" "$CNI_NETNS" "$mac" "$ip"
exit 0
}"""


@pytest.fixture
def multus(world: World) -> Config:
    """The world's configuration, as it was for Multus."""
    return {**world.config, "type": "multus"}


def requests_not_met(world: World) -> list[str]:
    return [line for line in world.agent.log if "event of pod" in line and "RequestNotMet" in line]


def test_mac_of_a_virtual_machine_reaches_plugins_without_the_capability_and_one_that_passes_over_it_is_told(
    world: World, multus: Config
) -> None:
    asked: list[dict[str, Any]] = [
        {"name": "bridged", "namespace": "default", "mac": MAC, "interface": "pod37a8eec1ce1", "cni-args": None},
        {"name": "ptp", "namespace": "default", "mac": MAC, "interface": "pod16367aacb67"},
    ]
    pod = world.pod("virt-launcher-vm1-x", asked)
    world.add(pod, multus)
    links = pod.links()
    assert links["pod37a8eec1ce1"]["address"] == MAC
    got = links["pod16367aacb67"]["address"]
    assert got != MAC  # ptp ignores the requested MAC
    line = world.agent.wait_log("event of pod default/virt-launcher-vm1-x: RequestNotMet", "default/ptp")
    assert f'network default/ptp (pod16367aacb67): key "mac": requested {MAC}, got {got}' in line
    assert len(requests_not_met(world)) == 1
    assert world.call("CHECK", pod, multus) == DONE
    assert world.call("DEL", pod, multus) == DONE
    world.nothing_left(pod)


def test_network_that_is_attached_later_is_given_the_mac_too(world: World, multus: Config) -> None:
    pod = world.pod("p")
    world.add(pod, multus)
    run(world, "attach", "p", json.dumps({"name": "bridged", "mac": MAC, "interface": "pod37a8eec1ce1"}))
    run(world, "attach", "p", json.dumps({"name": "ptp", "mac": MAC}))
    assert pod.links()["pod37a8eec1ce1"]["address"] == MAC
    world.agent.wait_log("event of pod default/p: RequestNotMet", f"requested {MAC}")
    assert len(requests_not_met(world)) == 1
    assert world.call("DEL", pod, multus) == DONE
    world.nothing_left(pod)


def test_pod_of_ovn_kubernetes_gets_its_default_network_and_its_claims_are_the_plugins_to_read(
    world: World, multus: Config
) -> None:
    world.script("ovn-k8s-cni-overlay", ANSWER)
    overlay = {"cniVersion": "1.0.0", "name": "ovn-kubernetes", "type": "ovn-k8s-cni-overlay"}
    layer2 = {
        **overlay,
        "name": "tenant-blue",
        "topology": "layer2",
        "subnets": "10.100.0.0/16",
        "allowPersistentIPs": True,
        "netAttachDefName": "default/blue",
    }
    world.define("default", overlay, namespace="ovn-kubernetes")
    world.define("blue", layer2)
    primary = {"name": "default", "namespace": "ovn-kubernetes", "mac": MAC, "ips": ["10.244.1.7/24"]}
    secondary = {"name": "blue", "namespace": "default", "mac": "02:9d:4c:00:00:02", "ips": ["10.100.0.5/16"]}
    pod = world.pod(
        "vm",
        [{**secondary, "ipam-claim-reference": "vm1.blue"}],
        **{
            DEFAULT: json.dumps([{**primary, "ipam-claim-reference": "vm1.podnet"}]),
            "k8s.ovn.org/primary-udn-ipamclaim": "vm1.podnet",
        },
    )
    result = world.add(pod, multus)
    assert result["interfaces"][0]["mac"] == MAC
    (first, first_config), (second, second_config) = world.calls("ovn-k8s-cni-overlay", "ADD")
    for environ, asked in ((first, primary), (second, secondary)):
        args = environ["CNI_ARGS"].split(";")
        assert {f"MAC={asked['mac']}", f"IP={asked['ips'][0]}", "K8S_POD_NAME=vm"} <= set(args)
    assert (first["CNI_IFNAME"], second["CNI_IFNAME"]) == ("eth0", "net1")
    assert (first_config, second_config) == (overlay, layer2)
    status = world.status(pod)
    assert status is not None
    assert [(entry["name"], entry["mac"], entry["ips"]) for entry in status] == [
        ("ovn-kubernetes/default", MAC, ["10.244.1.7"]),
        ("default/blue", "02:9d:4c:00:00:02", ["10.100.0.5"]),
    ]
    assert world.call("DEL", pod, multus) == DONE
    world.nothing_left(pod)
    assert world.agent.stop() == 0
    world.agent.reader.join(PATIENCE)
    assert requests_not_met(world) == []
