"""What breaks in a cluster: agent, kubelet, runtime, API server, node. After each, nothing is left of any pod."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube, network_status
from tests.cluster.manifests import bridge, nad, pod

BURST = 60
VFS = 4  # of a VM, with the kernel's driver
KERNEL = {"intel.com/left_kernel": 1}


def vf_network(name: str) -> dict[str, object]:
    """A network on the kernel's VFs of ens1, with addresses."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]]}
    return nad(name, {"type": "wirespeed-sriov", "vlan": 30, "ipam": ipam}, resource="intel.com/left_kernel")


def interfaces(of: dict[str, object]) -> list[str]:
    """The interfaces that network-status tells of."""
    return [status["interface"] for status in network_status(of)]


@pytest.fixture
def networks(kube: Kube) -> Kube:
    """Two bridges and the VFs of ens1."""
    kube.apply(bridge("one", "10.61.0.0/24"), bridge("two", "10.62.0.0/24"), vf_network("fast"))
    return kube


@dataclass(frozen=True)
class Places:
    """The nodes that a test starts pods on, and those of them that have VFs."""

    all: list[Remote]
    vms: list[Remote]


@pytest.fixture
def places(nodes: list[Remote], vms: list[Remote]) -> Places:
    return Places(nodes, vms)


def start_some(kube: Kube, prefix: str, places: Places) -> list[str]:
    """On each node a pod on two bridges, and with a VF where there are any; their names."""
    names = []
    for node in places.all:
        name = f"{prefix}-{node.name}"
        if node in places.vms:
            kube.apply(pod(name, ["one", "two", "fast"], node=node.name, resources=dict(KERNEL)))
        else:
            kube.apply(pod(name, ["one", "two"], node=node.name))
        names.append(name)
    return names


def assert_attached(kube: Kube, names: list[str]) -> None:
    for ready in kube.pods_ready(*names):
        wanted = (
            ["eth0", "net1", "net2", "net3"]
            if ready["spec"]["containers"][0]["resources"]
            else ["eth0", "net1", "net2"]
        )
        assert interfaces(ready) == wanted, ready["metadata"]["name"]


def replicas(name: str, node: Remote, number: int) -> dict[str, object]:
    """Pods with a VF each, by their controller: one whose device plugin goes while it is admitted is replaced."""
    template = pod(name, ["fast"], node=node.name, resources=dict(KERNEL))
    template["metadata"]["labels"] = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": number,
            "selector": {"matchLabels": {"app": name}},
            "template": {key: template[key] for key in ("metadata", "spec")},
        },
    }


def test_burst_with_the_agents_killed(networks: Kube, places: Places) -> None:
    """60 pods at once, as many of them with VFs as there are; the agents are killed when the first one runs."""
    number = BURST - VFS * len(places.vms)
    others = [node for node in places.all if node not in places.vms] or places.all
    names = [f"burst-{one}" for one in range(number)]
    networks.apply(
        *(pod(name, ["one", "two"], node=others[one % len(others)].name) for one, name in enumerate(names)),
        *(replicas(f"vf-{node.name}", node, VFS) for node in places.vms),
    )
    networks.until("some pod is Ready", lambda: any(is_ready(item) for item in networks.items("pods")))
    for node in places.all:
        node.run("pkill -9 -f 'wirespeed agent'")

    def all_ready() -> list[dict[str, object]]:
        ready = [item for item in networks.items("pods") if is_ready(item)]
        return ready if len(ready) == BURST else []

    ready = networks.until(f"{BURST} pods are Ready", all_ready)
    had = [
        (item["spec"]["nodeName"], status["name"], address)
        for item in ready
        for status in network_status(item)[1:]
        for address in status["ips"]
    ]
    assert len(had) == len(set(had)), "an address twice on a node"
    assert len(had) == BURST + number


@pytest.mark.parametrize("service", ["kubelet", "containerd"])
def test_restarted_service(networks: Kube, places: Places, service: str) -> None:
    before = start_some(networks, "before", places)
    assert_attached(networks, before)
    during = start_some(networks, "during", places)
    for node in places.all:
        node.run(f"node restart {service}")
    after = start_some(networks, "after", places)
    assert_attached(networks, before + during + after)


@contextmanager
def api_server_away(described: dict[str, object]) -> Iterator[None]:
    """No API server while the body runs: nobody listens."""
    folder = Path(str(described["folder"]))
    held = folder / "held/apiserver"
    held.touch()
    try:
        os.kill(int((folder / "apiserver.pid").read_text()), signal.SIGKILL)
        yield
    finally:
        held.unlink()


@contextmanager
def api_server_slow(described: dict[str, object]) -> Iterator[None]:
    """An API server that runs for 0.3 of 5 seconds while the body runs."""
    process = int((Path(str(described["folder"])) / "apiserver.pid").read_text())
    ended = threading.Event()

    def hold() -> None:
        while not ended.is_set():
            os.kill(process, signal.SIGSTOP)
            ended.wait(4.7)
            os.kill(process, signal.SIGCONT)
            ended.wait(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()


def test_api_server_away(networks: Kube, places: Places, described: dict[str, object]) -> None:
    before = start_some(networks, "before", places)
    assert_attached(networks, before)
    during = start_some(networks, "during", places)
    with api_server_away(described):
        # Pods that were scheduled may go on starting; the others wait.
        time.sleep(60)
    networks.until("the API server answers", lambda: "ok" in networks.run("get", "--raw=/readyz", check=False))
    assert_attached(networks, before + during)
    networks.delete("pod", *before)


def test_api_server_slow(networks: Kube, places: Places, described: dict[str, object]) -> None:
    before = start_some(networks, "before", places)
    assert_attached(networks, before)
    with api_server_slow(described):
        started = time.monotonic()
        during = start_some(networks, "during", places)
        networks.delete("pod", *before, wait=False)
        time.sleep(max(0.0, 60 - (time.monotonic() - started)))
    assert_attached(networks, during)


def test_node_reset(networks: Kube, vms: list[Remote], wirespeed: Kube) -> None:
    node = vms[0]
    (name,) = start_some(networks, "before", Places([node], [node]))
    assert_attached(networks, [name])
    was = networks.get("pod", name)
    boot = node.run("cat /proc/sys/kernel/random/boot_id").stdout
    node.run("nohup sh -c 'sleep 0.5; echo b > /proc/sysrq-trigger' > /dev/null 2>&1 &", check=False)
    node.forget()
    networks.until(
        "the node is back",
        lambda: (
            node.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip() not in {"", boot.strip()}
        ),
    )
    # VFs are made anew at each boot, as a unit of the node does it (wirespeed vf apply).
    release.make_vfs(node)

    def again() -> bool:
        now = networks.get("pod", name)
        containers = now["status"]["containerStatuses"]
        return (
            is_ready(now) and containers[0]["containerID"] != was["status"]["containerStatuses"][0]["containerID"]
        )

    networks.until("the pod runs again", again, timeout=600)
    assert interfaces(networks.get("pod", name)) == ["eth0", "net1", "net2", "net3"]
    release.agents_ready(wirespeed)


def test_namespace_deleted(networks: Kube, places: Places) -> None:
    assert_attached(networks, start_some(networks, "one", places) + start_some(networks, "two", places))
    networks.delete("namespace", networks.namespace)
    assert not [
        item
        for item in networks.items("pods", "--all-namespaces")
        if item["metadata"]["namespace"] == networks.namespace
    ]


def test_node_drained(networks: Kube, vms: list[Remote]) -> None:
    node = vms[0]
    names = start_some(networks, "evicted", Places([node], [node]))
    assert_attached(networks, names)
    try:
        networks.run("drain", node.name, "--ignore-daemonsets", "--force", "--delete-emptydir-data", timeout=300)
        assert not networks.items("pods")
    finally:
        networks.run("uncordon", node.name)
