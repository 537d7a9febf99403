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
from tests.cluster.kube import Kube, Object, network_status
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
    """On each node a pod on two bridges, with a VF too where there are any; what their labels `app` say."""
    names = []
    for node in places.all:
        fast = node in places.vms
        networks = ["one", "two", "fast"] if fast else ["one", "two"]
        name = f"{prefix}-{node.name}"
        kube.apply(replicas(name, node, 1, networks, dict(KERNEL) if fast else {}))
        names.append(name)
    return names


def running(kube: Kube, name: str) -> list[Object]:
    """The pods of a controller, but those that the kubelet has refused: another is in their place."""
    pods = kube.items("pods", f"--selector=app={name}")
    return [one for one in pods if one["status"].get("phase") not in {"Failed", "Succeeded"}]


def assert_attached(kube: Kube, names: list[str]) -> None:
    def ready_ones(name: str) -> list[Object]:
        pods = running(kube, name)
        return pods if all(map(is_ready, pods)) else []

    for name in names:
        (ready,) = kube.until(f"the pod of {name} is Ready", lambda name=name: ready_ones(name))  # type: ignore[misc]
        wanted = ["eth0", "net1", "net2"]
        wanted += ["net3"] if ready["spec"]["containers"][0]["resources"] else []
        assert interfaces(ready) == wanted, name


def replicas(
    name: str, node: Remote, number: int, networks: list[str], resources: dict[str, str | int]
) -> dict[str, object]:
    """Pods by their controller, which replaces those that the kubelet refuses: as it does with one that asks for a
    device while it has just started and no device plugin has come to it yet, or while the plugin is away.
    """
    template = pod(name, networks, node=node.name, resources=resources)
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
        *(replicas(f"vf-{node.name}", node, VFS, ["fast"], dict(KERNEL)) for node in places.vms),
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
    networks.delete("replicaset", *before)


def test_api_server_slow(networks: Kube, places: Places, described: dict[str, object]) -> None:
    before = start_some(networks, "before", places)
    assert_attached(networks, before)
    with api_server_slow(described):
        started = time.monotonic()
        during = start_some(networks, "during", places)
        networks.delete("replicaset", *before, wait=False)
        time.sleep(max(0.0, 60 - (time.monotonic() - started)))
    assert_attached(networks, during)


def container(of: Object) -> str:
    """The id of a pod's container."""
    return str(of["status"]["containerStatuses"][0]["containerID"])


def test_node_reset(networks: Kube, vms: list[Remote], wirespeed: Kube) -> None:
    node = vms[0]
    (name,) = start_some(networks, "before", Places([node], [node]))
    assert_attached(networks, [name])
    (was,) = running(networks, name)
    boot = node.run("cat /proc/sys/kernel/random/boot_id").stdout
    node.run("nohup sh -c 'sleep 0.5; echo b > /proc/sysrq-trigger' > /dev/null 2>&1 &", check=False)
    node.forget()
    networks.until(
        "the node is back",
        lambda: (
            node.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip() not in {"", boot.strip()}
        ),
    )

    def runs_again() -> bool:
        return any(is_ready(one) and container(one) != container(was) for one in running(networks, name))

    networks.until("the pod runs again", runs_again, timeout=600)
    assert_attached(networks, [name])
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
        assert not [item for item in networks.items("pods") if "nodeName" in item["spec"]]
    finally:
        networks.run("uncordon", node.name)
