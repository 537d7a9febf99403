"""Multus, installed from its own manifest, is replaced by wirespeed while its pods run, and later restored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube, Object, network_status
from tests.cluster.manifests import bridge, nad, pod
from tests.cluster.state import own_namespace

NETWORKS = ["one", "two"]
VALUES = {"replace": ["multus"], "multus": {"daemonConfigMap": "multus-daemon-config"}}
# Multus' files for pods, its executables and its configuration.
KEPT = "ls -d /var/lib/cni/multus/* /var/lib/cni/multus/results/* 2> /dev/null | grep -v 'results$' || true"
NAMES = "cd /opt/cni/bin && sha256sum multus-shim multus 2> /dev/null; ls -a /opt/cni/bin /etc/cni/net.d"


def read(nodes: list[Remote], command: str) -> dict[str, str]:
    """The output of a command on each node."""
    return {node.name: node.run(command).stdout for node in nodes}


@pytest.fixture
def multus(prepared: Kube, nodes: list[Remote], described: dict[str, object]) -> Iterator[Kube]:
    """Multus on all nodes, from its own manifest; removed afterwards."""
    system = prepared.inside(release.NAMESPACE)
    manifest = Path(str(described["manifests"])) / "multus-daemonset-thick.yml"
    before = read(nodes, NAMES)
    system.apply(manifest)
    try:
        system.run("rollout", "status", "daemonset/kube-multus-ds", "--timeout=600s", timeout=620)
        system.until(
            "every node has Multus' configuration",
            lambda: all("00-multus.conf" in names for names in read(nodes, NAMES).values()),
        )
        yield prepared
    finally:
        # The NetworkAttachmentDefinition CRD stays, because other tests use it.
        system.delete("daemonset", "kube-multus-ds")
        system.delete("configmap", "multus-daemon-config")
        system.delete("serviceaccount", "multus")
        system.delete("clusterrolebinding", "multus")
        system.delete("clusterrole", "multus")
        for node in nodes:
            node.run(
                "rm -rf /opt/cni/bin/multus-shim /opt/cni/bin/passthru /etc/cni/net.d/00-multus.conf "
                "/etc/cni/net.d/multus.d /etc/cni/multus /var/lib/cni/multus /run/multus"
            )
    assert {name: names.splitlines() for name, names in read(nodes, NAMES).items()} == {
        name: names.splitlines() for name, names in before.items()
    }


@pytest.fixture
def pods(multus: Kube, nodes: list[Remote]) -> Iterator[Kube]:
    """A namespace with two networks, deleted with its pods. Afterwards the nodes must be in their earlier state."""
    kept = read(nodes, KEPT)
    macvlan = {"type": "macvlan", "master": "ens1", "mode": "bridge"}
    with own_namespace(multus, nodes, "taken-over") as inside:
        inside.apply(
            bridge("one", "10.71.0.0/24"),
            nad("two", {**macvlan, "ipam": {"type": "host-local", "subnet": "10.72.0.0/24"}}),
        )
        yield inside
    assert read(nodes, KEPT) == kept


@pytest.fixture
def removed(pods: Kube, nodes: list[Remote]) -> Iterator[None]:
    """Uninstalls wirespeed after the test, whether it passed or failed."""
    yield
    if release.is_installed():
        pods.delete("pod", "--all")
        release.uninstall(pods, nodes)


def start(kube: Kube, prefix: str, nodes: list[Remote]) -> list[Object]:
    """Start a pod with both networks on each node. Return the pods when they are Ready."""
    names = [f"{prefix}-{node.name}" for node in nodes]
    kube.apply(
        *(
            pod(name, NETWORKS, node=node.name, capabilities=("NET_RAW",))
            for name, node in zip(names, nodes, strict=True)
        )
    )
    ready = kube.pods_ready(*names)
    for one in ready:
        interfaces = [status["interface"] for status in network_status(one)]
        assert interfaces == ["eth0", "net1", "net2"], one["metadata"]["name"]
    return ready


def attached_by(kube: Kube, name: str) -> set[str]:
    """The components that reported a pod's interfaces in events."""
    events = kube.items("events", f"--field-selector=reason=AddedInterface,involvedObject.name={name}")
    return {event["reportingComponent"] or event["source"]["component"] for event in events}


def taken_back(kube: Kube) -> set[str]:
    """The nodes that have an event PluginTakenBack."""
    events = kube.inside("default").items("events", "--field-selector=reason=PluginTakenBack")
    return {event["involvedObject"]["name"] for event in events}


def addresses(kube: Kube, name: str) -> dict[str, list[str]]:
    """The IPv4 addresses of each interface inside the pod."""
    shown = json.loads(kube.execute(name, "ip", "-json", "-4", "address", "show"))
    return {link["ifname"]: [one["local"] for one in link["addr_info"]] for link in shown}


def containers(pods: list[Object]) -> list[str]:
    return [one["status"]["containerStatuses"][0]["containerID"] for one in pods]


@pytest.mark.usefixtures("removed")
def test_multus_gives_its_place_while_its_pods_run_and_gets_it_back(pods: Kube, nodes: list[Remote]) -> None:
    theirs = read(nodes, NAMES)
    old = start(pods, "old", nodes)
    names = [one["metadata"]["name"] for one in old]
    had = {name: addresses(pods, name) for name in names}
    assert [attached_by(pods, name) for name in names] == [{"multus"}] * len(nodes)
    assert all(read(nodes, KEPT).values())

    release.install(VALUES)
    release.agents_ready(pods)
    assert containers(pods.pods_ready(*names)) == containers(old)
    assert {name: addresses(pods, name) for name in names} == had
    assert not any(read(nodes, KEPT).values())

    new = [one["metadata"]["name"] for one in start(pods, "new", nodes)]
    assert [attached_by(pods, name) for name in new] == [{"wirespeed"}] * len(nodes)
    for before, after, node in zip(names, new, nodes, strict=True):
        for interface in ("net1", "net2"):
            there = addresses(pods, after)[interface][0]
            assert there not in had[before][interface], node.name
            pods.execute(before, "ping", "-I", interface, "-c", "1", "-w", "60", there)
    pods.delete("pod", names[0])

    # At each start, Multus copies its executable there again.
    system = pods.inside(release.NAMESPACE)
    system.run("rollout", "restart", "daemonset/kube-multus-ds")
    system.run("rollout", "status", "daemonset/kube-multus-ds", "--timeout=600s", timeout=620)
    system.until("its name is taken back on every node", lambda: taken_back(pods) >= {node.name for node in nodes})
    for node in nodes:
        node.run("cmp /opt/cni/bin/multus-shim /opt/cni/bin/wirespeed")

    system.delete("daemonset", "kube-multus-ds")
    start(pods, "alone", nodes)
    assert all(is_ready(one) for one in pods.items("pods"))

    pods.delete("pod", "--all")
    release.uninstall(pods, nodes)
    left = {name: [line for line in was.splitlines() if line != "00-multus.conf"] for name, was in theirs.items()}
    now = {
        name: [line for line in was.splitlines() if line != "00-multus.conf"]
        for name, was in read(nodes, NAMES).items()
    }
    assert now == left
