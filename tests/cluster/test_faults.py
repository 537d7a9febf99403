"""Failures of agent, kubelet, runtime and API server. After each, nothing of any pod is left on the nodes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster.kube import Kube, network_status
from tests.cluster.manifests import pod
from tests.cluster.workload import assert_attached, assert_drains, start_some

BURST = 60


def test_burst_with_the_agents_killed(networks: Kube, nodes: list[Remote]) -> None:
    """60 pods at once. The agents are killed when the first one is Ready."""
    names = [f"burst-{number}" for number in range(BURST)]
    networks.apply(
        *(pod(name, ["one", "two"], node=nodes[one % len(nodes)].name) for one, name in enumerate(names))
    )
    networks.until("some pod is Ready", lambda: any(is_ready(item) for item in networks.items("pods")))
    for node in nodes:
        node.run("pkill -9 -f 'wirespeed agent'")
    had = [
        (item["spec"]["nodeName"], status["name"], address)
        for item in networks.pods_ready(*names)
        for status in network_status(item)[1:]
        for address in status["ips"]
    ]
    assert len(had) == len(set(had)), "an address twice on a node"
    assert len(had) == 2 * BURST


@pytest.mark.parametrize("service", ["kubelet", "containerd"])
def test_restarted_service(networks: Kube, nodes: list[Remote], service: str) -> None:
    before = start_some(networks, "before", nodes)
    assert_attached(networks, before)
    during = start_some(networks, "during", nodes)
    for node in nodes:
        node.run(f"node restart {service}")
    after = start_some(networks, "after", nodes)
    assert_attached(networks, before + during + after)


@contextmanager
def api_server_away(described: dict[str, object]) -> Iterator[None]:
    """The API server is stopped during the body: connections are refused."""
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
    """The API server runs for only 0.3 of every 5 seconds during the body."""
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


def test_api_server_away(networks: Kube, nodes: list[Remote], described: dict[str, object]) -> None:
    before = start_some(networks, "before", nodes)
    assert_attached(networks, before)
    during = start_some(networks, "during", nodes)
    with api_server_away(described):
        # Pods that were already scheduled may start; the others wait.
        time.sleep(60)
    networks.until("the API server answers", lambda: "ok" in networks.run("get", "--raw=/readyz", check=False))
    assert_attached(networks, before + during)
    networks.delete("replicaset", *before)


def test_api_server_slow(networks: Kube, nodes: list[Remote], described: dict[str, object]) -> None:
    before = start_some(networks, "before", nodes)
    assert_attached(networks, before)
    with api_server_slow(described):
        started = time.monotonic()
        during = start_some(networks, "during", nodes)
        networks.delete("replicaset", *before, wait=False)
        time.sleep(max(0.0, 60 - (time.monotonic() - started)))
    assert_attached(networks, during)


def test_namespace_deleted(networks: Kube, nodes: list[Remote]) -> None:
    assert_attached(networks, start_some(networks, "one", nodes) + start_some(networks, "two", nodes))
    networks.delete("namespace", networks.namespace)
    assert not [
        item
        for item in networks.items("pods", "--all-namespaces")
        if item["metadata"]["namespace"] == networks.namespace
    ]


def test_node_drained(networks: Kube, nodes: list[Remote]) -> None:
    node = nodes[0]
    names = start_some(networks, "evicted", [node])
    assert_attached(networks, names)
    assert_drains(networks, node)
