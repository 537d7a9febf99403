"""`wirespeed uninstall-nodes` with a real DaemonSet controller. The test acts as the kubelets of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.chart.conftest import ROOT, Helm
from tests.cluster.kube import PATIENCE, Kube, Object, kubeconfig
from wirespeed.kube.api import Api, RefusedError, Timeouts

_WAITS = Timeouts(connect=10.0, read=PATIENCE, total=PATIENCE)
LABEL = "example.com/chart"
AGENTS, REMOVERS = "wirespeed", "wirespeed-uninstall"
Ending = Callable[[Object], tuple[int, str] | None]  # how a pod's init container ends: exit status and message


@dataclass
class Place:
    """A release in a namespace, on two nodes whose kubelets this class emulates."""

    kubectl: Kube
    api: Api
    namespace: str
    nodes: tuple[str, str]
    kubeconfig: str  # of the hook's service account
    ending: Ending = lambda _: (0, "")
    started: bool = False  # removers run only then: before, the test has not said how they end
    # removers that ran: the node, and whether with --dry-run
    seen: list[tuple[str, bool]] = field(default_factory=list)
    agents_then: list[int] = field(default_factory=list)  # number of agents left when each remover uninstalled
    stop: threading.Event = field(default_factory=threading.Event)

    def daemonset(self, name: str) -> Object:
        return self.api.get(f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets/{name}", timeouts=_WAITS)

    def pods(self, component: str) -> list[Object]:
        query = {"labelSelector": f"app.kubernetes.io/component={component}"}
        found, _ = self.api.page(f"/api/v1/namespaces/{self.namespace}/pods", query, timeouts=_WAITS)
        return list(found)

    def start(self, *, seconds: float = PATIENCE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "wirespeed", "uninstall-nodes", f"--namespace={self.namespace}"]
        options = [f"--agents={AGENTS}", f"--removers={REMOVERS}", f"--timeout={seconds}"]
        self.started = True
        return subprocess.Popen(
            [*command, *options, f"--kubeconfig={self.kubeconfig}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refused(self, *, seconds: float = PATIENCE) -> str:
        """Run it and return its error output; it must fail."""
        process = self.start(seconds=seconds)
        stdout, stderr = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode == 1, stdout
        return stderr

    def await_(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, self.kubectl.run("-n", self.namespace, "get", "ds,pods", "-o", "wide")
            self.stop.wait(0.1)

    def agents_run(self) -> bool:
        there = {pod["spec"].get("nodeName") for pod in self.pods("agent") if not _goes(pod)}
        return there == set(self.nodes)

    def nobody_removes(self) -> bool:
        return not self.pods("uninstall")

    def play(self) -> None:
        """Act as the kubelets: run init containers, and delete pods that are terminating."""
        while not self.stop.wait(0.05):
            for pod in [*self.pods("agent"), *self.pods("uninstall")]:
                if pod["spec"].get("nodeName") not in self.nodes:
                    continue
                try:
                    self._play(pod)
                except RefusedError as error:  # the pod changed or was deleted meanwhile
                    assert error.status in (404, 409, 422), error

    def _play(self, pod: Object) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
        if _goes(pod):
            name = pod["metadata"]["name"]
            self.kubectl.run(
                "-n", self.namespace, "delete", "pod", name, "--ignore-not-found", "--grace-period=0", "--force"
            )
            return
        if pod.get("status", {}).get("initContainerStatuses"):
            return
        (init,) = pod["spec"]["initContainers"]
        name = init["name"]
        if name == "uninstall" and not self.started:
            return
        if name == "uninstall":
            look = "--dry-run" in init["args"]
            if not look:
                self.agents_then.append(len(self.pods("agent")))
            self.seen.append((pod["spec"]["nodeName"], look))
        ended = self.ending(pod)
        state: Object = {"waiting": {"reason": "ErrImagePull", "message": "no such\nimage"}}
        if ended is not None:
            now = "2026-01-01T00:00:00Z"
            state = {"terminated": {"exitCode": ended[0], "message": ended[1], "startedAt": now, "finishedAt": now}}
        status = {"name": name, "image": "x", "imageID": "", "ready": True, "restartCount": 0, "state": state}
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"initContainerStatuses": [status]}}
        self.api.patch(f"{path}/status", body, timeouts=_WAITS)


def _goes(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _node(name: str, labels: dict[str, str]) -> Object:
    """A node on which no other pods are scheduled."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", **labels}},
        "spec": {"unschedulable": True},
    }


@pytest.fixture
def nodes(kubectl: Kube) -> Iterator[tuple[str, str]]:
    """Two nodes without kubelets, on which no other pods are scheduled."""
    mark = uuid.uuid4().hex[:8]
    names = (f"near-{mark}.example", f"far-{mark}.example")
    kubectl.apply(*(_node(name, {LABEL: mark}) for name in names))
    try:
        yield names
    finally:
        kubectl.run("delete", "node", *names)


@pytest.fixture
def place(helm: Helm, kubectl: Kube, namespace: str, nodes: tuple[str, str], tmp_path: Path) -> Iterator[Place]:
    mark = kubectl.get("node", nodes[0])["metadata"]["labels"][LABEL]
    objects = helm.objects(
        "--set=priorityClassName=",
        "--set=crds.install=false",
        f"--set-json=nodeSelector={json.dumps({LABEL: mark})}",
        namespace=namespace,
    )
    cluster_wide = [each for each in objects if "namespace" not in each["metadata"]]
    kubectl.apply(*(each for each in objects if each not in cluster_wide and each["kind"] != "Job"))
    token = kubectl.run("-n", namespace, "create", "token", REMOVERS).strip()
    with closing(Api(os.environ["KUBECONFIG"])) as api:
        for name in nodes:
            room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
            body: Object = {"status": {"capacity": room, "allocatable": room}}
            api.patch(f"/api/v1/nodes/{name}/status", body, timeouts=_WAITS)
        made = Place(kubectl, api, namespace, nodes, kubeconfig(kubectl, token, tmp_path))
        player = threading.Thread(target=made.play)
        player.start()
        try:
            made.await_(made.agents_run)
            yield made
        finally:
            kubectl.run("-n", namespace, "delete", "daemonset", "--all")
            made.await_(lambda: not made.pods("agent") and not made.pods("uninstall"))
            made.stop.set()
            player.join()


def _of(place: Place, node: int, *, look: bool, ended: tuple[int, str] | None) -> Ending:
    """All removers succeed, except the one on this node (with `look`, its check; else its uninstallation)."""

    def ending(pod: Object) -> tuple[int, str] | None:
        init = pod["spec"]["initContainers"][0]
        this = init["name"] == "uninstall" and ("--dry-run" in init["args"]) is look
        return ended if this and pod["spec"]["nodeName"] == place.nodes[node] else (0, "")

    return ending


def test_nodes_are_given_back_when_all_have_agreed_and_no_agent_runs(place: Place) -> None:
    process = place.start()
    stdout, stderr = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines() == [
        "checking the nodes",
        "stopping the agents",
        "uninstalling",
        "wirespeed is removed from all nodes",
    ]
    assert sorted(place.seen) == sorted((node, look) for node in place.nodes for look in (True, False))
    assert place.agents_then == [0, 0]
    assert not place.pods("agent")


def test_one_node_that_may_not_go_keeps_all(place: Place) -> None:
    generation = place.daemonset(AGENTS)["metadata"]["generation"]
    place.ending = _of(place, 1, look=True, ended=(1, "Error: 2 containers (a, b): drain\nthe node first"))
    assert place.refused() == f"Error: node {place.nodes[1]}: 2 containers (a, b): drain the node first\n"
    assert place.daemonset(AGENTS)["metadata"]["generation"] == generation
    assert not [node for node, look in place.seen if not look]
    place.await_(place.nobody_removes)


def test_node_whose_remover_cannot_start_is_named(place: Place) -> None:
    place.ending = _of(place, 1, look=True, ended=None)
    error = place.refused(seconds=5)
    assert error == f"Error: has not answered: {place.nodes[1]} (ErrImagePull: no such image)\n"
    place.await_(place.nobody_removes)
    assert place.agents_run()


def test_agents_come_back_where_a_node_fails_late(place: Place) -> None:
    place.ending = _of(place, 0, look=False, ended=(1, "Error: a pod came"))
    assert place.refused() == f"Error: node {place.nodes[0]}: a pod came\n"
    place.await_(place.agents_run)
    place.await_(place.nobody_removes)


def test_what_was_begun_is_undone_when_it_is_stopped(place: Place) -> None:
    place.ending = _of(place, 1, look=True, ended=None)
    process = place.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "checking the nodes\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (1, "Error: stopped before all nodes were done\n")
    place.await_(place.nobody_removes)
    assert place.agents_run()


def test_second_attempt_after_one_that_was_killed_goes_on(place: Place) -> None:
    for name in (AGENTS, REMOVERS):
        selector = {"nodeSelector": {"kubernetes.io/os": "none"}}
        path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets/{name}"
        place.api.patch(path, {"spec": {"template": {"spec": selector}}}, timeouts=_WAITS)
    place.await_(lambda: not place.pods("agent"))
    place.kubectl.run("-n", place.namespace, "delete", "daemonset", AGENTS)
    selector = {"nodeSelector": {"kubernetes.io/os": "linux"}}  # as Helm recreates the hook's objects
    path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets/{REMOVERS}"
    place.api.patch(path, {"spec": {"template": {"spec": selector}}}, timeouts=_WAITS)
    process = place.start()
    _, stderr = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    assert {node for node, look in place.seen if not look} == set(place.nodes)
