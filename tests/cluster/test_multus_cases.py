"""The cases of Multus' own end-to-end tests, with wirespeed instead of Multus.

Left out: the Service of its node density test (this cluster has no kube-proxy), and its DRA case, because its
example driver is in no package registry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube, network_status
from tests.cluster.manifests import bridge, nad, pod

SYSCTL = "net.ipv4.conf.{}.arp_filter"


def addresses(kube: Kube, name: str, interface: str) -> list[str]:
    """The IPv4 addresses of a pod's interface."""
    shown = json.loads(kube.execute(name, "ip", "-json", "-4", "address", "show", "dev", interface))
    return [address["local"] for address in shown[0]["addr_info"]]


def default_routes(kube: Kube, name: str) -> list[str]:
    """The gateways of a pod's default routes."""
    return [route["gateway"] for route in json.loads(kube.execute(name, "ip", "-json", "route", "show", "default"))]


def test_pod_without_networks(kube: Kube) -> None:
    kube.apply(pod("simple"))
    (ready,) = kube.pods_ready("simple")
    assert [status["interface"] for status in network_status(ready)] == ["eth0"]


def test_macvlan_from_node_to_node(kube: Kube, nodes: list[Remote]) -> None:
    plugin = {
        "type": "macvlan",
        "capabilities": {"ips": True},
        "master": "ens1",
        "mode": "bridge",
        "ipam": {"type": "static"},
    }
    kube.apply(nad("macvlan1-config", {"plugins": [plugin, {"type": "tuning"}]}))
    names = []
    for number, node in enumerate(nodes, 11):
        name = f"macvlan1-{node.name}"
        kube.apply(
            pod(
                name,
                [{"name": "macvlan1-config", "ips": [f"10.1.1.{number}/24"]}],
                node=node.name,
                capabilities=("NET_RAW",),
            )
        )
        names.append(name)
    kube.pods_ready(*names)
    for number, name in enumerate(names, 11):
        assert addresses(kube, name, "net1") == [f"10.1.1.{number}"]
    if len(names) > 1:
        kube.execute(names[0], "ping", "-I", "net1", "-c", "3", "-w", "60", "10.1.1.12")


def test_default_route(kube: Kube) -> None:
    plugin = {"type": "macvlan", "master": "ens1", "mode": "bridge", "ipam": {"type": "static"}}
    kube.apply(nad("default-route-config", {"plugins": [plugin]}))
    with_route = {"name": "default-route-config", "ips": ["10.1.1.21/24"], "default-route": ["10.1.1.254"]}
    kube.apply(
        pod("worker1", [with_route]),
        pod("worker2", [{"name": "default-route-config", "ips": ["10.1.1.22/24"]}]),
    )
    pods = kube.pods_ready("worker1", "worker2")
    assert addresses(kube, "worker1", "net1") == ["10.1.1.21"]
    assert default_routes(kube, "worker1") == ["10.1.1.254"]
    assert addresses(kube, "worker2", "net1") == ["10.1.1.22"]
    # The gateway of the cluster's network is the first address of the node's pod subnet.
    assert default_routes(kube, "worker2") == [pods[1]["status"]["podIP"].rpartition(".")[0] + ".1"]


def test_static_pod(kube: Kube, nodes: list[Remote]) -> None:
    node = nodes[0]
    kube.apply(bridge("bridge-nad", "10.10.0.0/16"))
    static = pod("static-web", "bridge-nad")
    static["metadata"]["namespace"] = kube.namespace
    place = "/etc/kubernetes/manifests/static-web.yaml"
    # Written elsewhere and moved, because the kubelet reads the directory at every change.
    node.run(f"cat > /tmp/static-web && mv /tmp/static-web {place}", given=yaml.safe_dump(static).encode())
    try:
        name = f"static-web-{node.name}"
        kube.pods_ready(name)
        assert len(addresses(kube, name, "net1")) == 1
    finally:
        node.run(f"rm {place}")
    kube.until("the static pod is gone", lambda: not kube.items("pods"))


@pytest.fixture
def one_at_a_time(wirespeed: Kube) -> Iterator[None]:
    """Agents that handle one request at a time (`workers: 1`); restored after the test."""
    release.upgrade(wirespeed, {"agent": {"workers": 1}})
    try:
        yield
    finally:
        release.rollback(wirespeed)


@pytest.mark.usefixtures("one_at_a_time")
def test_connection_limit(kube: Kube) -> None:
    names = [f"many-{number}" for number in range(6)]
    kube.apply(*(pod(name) for name in names))
    kube.pods_ready(*names)


@pytest.fixture
def subdirectory(nodes: list[Remote]) -> Iterator[None]:
    """A plugin added to the primary CNI's chain by a file in the directory named like its network."""
    yield from chained(nodes, "default", "IFNAME")


def chained(nodes: list[Remote], folder: str, interface: str) -> Iterator[None]:
    """Write the file on every node, and delete it after the test."""
    config = {
        "cniVersion": "1.0.0",
        "name": "sysctltwiddle",
        "type": "tuning",
        "sysctl": {SYSCTL.format(interface): "1"},
    }
    for node in nodes:
        node.run(
            f"mkdir -p /etc/cni/net.d/{folder} && cat > /etc/cni/net.d/{folder}/sysctltwiddle.conf",
            given=json.dumps(config).encode(),
        )
    try:
        yield
    finally:
        for node in nodes:
            node.run(f"rm -r /etc/cni/net.d/{folder}")


@pytest.mark.usefixtures("subdirectory")
def test_chain_of_a_subdirectory(kube: Kube) -> None:
    kube.apply(pod("sysctl-modified"))
    kube.pods_ready("sysctl-modified")
    assert kube.execute("sysctl-modified", "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter").strip() == "1"


@pytest.fixture
def auxiliary(wirespeed: Kube, nodes: list[Remote]) -> Iterator[None]:
    """Agents with an auxiliary CNI chain; restored after the test."""
    release.upgrade(wirespeed, {"agent": {"autoconf": {"meta": {"auxiliaryCNIChainName": "vendor-cni-chain"}}}})
    try:
        yield from chained(nodes, "vendor-cni-chain", "eth0")
    finally:
        release.rollback(wirespeed)


@pytest.mark.usefixtures("auxiliary")
def test_auxiliary_chain_by_a_configuration_update(kube: Kube) -> None:
    kube.apply(pod("sysctl-modified"))
    kube.pods_ready("sysctl-modified")
    assert kube.execute("sysctl-modified", "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter").strip() == "1"


def test_node_density(kube: Kube, nodes: list[Remote]) -> None:
    """Pods with a macvlan each are created and deleted in turns on one node."""
    ipam = {"type": "host-local", "subnet": "10.20.0.0/16"}
    kube.apply(nad("density", {"type": "macvlan", "master": "ens1", "mode": "bridge", "ipam": ipam}))
    node = nodes[-1]
    for turn in range(2):
        names = [f"turn-{turn}-{number}" for number in range(12)]
        kube.apply(*(pod(name, "density", node=node.name) for name in names))
        kube.pods_ready(*names)
        kube.delete("pod", "--selector=app=test")
    assert not [item for item in kube.items("pods") if is_ready(item)]
