"""`kubectl wirespeed measure`: the pods that it makes, and the command that measures in the agent's container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from tests.apiserver import ApiServer, Object
from tests.node.conftest import ROOT
from tests.node.pods import Pod, World
from tests.node.test_kubectl_wirespeed import agent_pod, user_pod
from wirespeed.cli.kubectl.commands import program
from wirespeed.cli.kubectl.measuring import LABEL
from wirespeed.measure.report import Report

SHORT = ("--test=throughput", "--size=128", "--trial=0.2", "--pause=0", "--max-rate=1000")
ENDS = ("--from=pod/left:net1", "--to=pod/default/right:net1")
NETWORK = ("--network=bridged", "--node=n1")
LIMIT = 120  # seconds, for a busy machine
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """A cluster whose node n1 has an agent without the web API, and with two pods that run."""
    with ApiServer(tmp_path) as server:
        pod = agent_pod(None)
        pod["spec"]["tolerations"] = [{"operator": "Exists"}]
        server.put(pod)
        for name in ("left", "right"):
            server.put(user_pod(name, nodeName="n1"))
        annotations = {RESOURCE: "example.com/none"}
        for name, more in (("bridged", {}), ("fast", {"annotations": annotations})):
            network = {"metadata": {"name": name, **more}, "spec": {}}
            server.put({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", **network})
        yield server


def ask(api: ApiServer, *arguments: str) -> Result:
    return CliRunner().invoke(program, ["measure", *arguments, f"--kubeconfig={api.kubeconfig()}"])


def started(command: list[str], **environ: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env={**os.environ, **environ})


def in_agent(api: ApiServer, start: Callable[[list[str]], subprocess.Popen[bytes]]) -> None:
    """What starts the commands in the container of the agent."""
    api.commands["wirespeed-n1", "agent"] = start


def scripted(api: ApiServer, script: str) -> None:
    """The program `wirespeed` in the container of the agent is this shell script."""
    in_agent(api, lambda command: started(["/bin/sh", "-c", script, *command]))


def on_node(api: ApiServer, world: World) -> None:
    """The program `wirespeed` in the container of the agent is the real one, on the node of the world."""

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        assert command[0] == "wirespeed"
        words = [sys.executable, "-m", *command]
        return started(words, WIRESPEED_CONFIG=str(world.agent.config))

    in_agent(api, start)


def pods_made(api: ApiServer) -> int:
    return api.counts()["POST /api/v1/namespaces/default/pods"]


def measured_pods(api: ApiServer) -> list[Object]:
    return [pod for pod in api.objects("Pod") if LABEL in (pod["metadata"].get("labels") or {})]


class Kubelet(threading.Thread):
    """Scheduler and kubelet of node n1 for the pods of measurements: they are attached on the node of the world."""

    def __init__(self, api: ApiServer, world: World) -> None:
        super().__init__()
        self.seen: list[Object] = []
        self.ended: list[Pod] = []
        self._api, self._world = api, world
        self._running: dict[str, Pod] = {}
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            for pod in measured_pods(self._api):
                self._handle(pod)
            with self._api.changed:
                self._api.changed.wait_for(lambda: self._stopped or bool(self._due()))

    def stop(self) -> None:
        with self._api.changed:
            self._stopped = True
            self._api.changed.notify_all()
        self.join()

    def _due(self) -> list[Object]:
        return [
            pod
            for pod in measured_pods(self._api)
            if not pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp")
        ]

    def _handle(self, pod: Object) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if pod["metadata"].get("deletionTimestamp"):
            attached = self._running.pop(name)
            assert self._world.call("DEL", attached).status == 0
            self.ended.append(attached)
            self._api.delete("Pod", namespace, name)
        elif not pod["spec"].get("nodeName"):
            self.seen.append(pod)
            networks = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
            self._running[name] = self._world.pod(name, networks, namespace=namespace)
            self._world.add(self._running[name])
            pod["spec"]["nodeName"] = "n1"
            pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            self._api.put(pod)


@pytest.fixture
def kubelet(api: ApiServer, world: World) -> Iterator[Kubelet]:
    thread = Kubelet(api, world)
    thread.start()
    yield thread
    thread.stop()


# Measurements


def test_two_pods_are_made_measured_and_removed(api: ApiServer, world: World, kubelet: Kubelet) -> None:
    on_node(api, world)
    done = ask(api, *NETWORK, *SHORT, "--json")
    assert done.exit_code == 0, done.output
    (size,) = msgspec.json.decode(done.stdout, type=Report).sizes
    assert size.throughput
    assert (size.size, size.throughput.trials[0].received) == (128, 200)
    assert "128 bytes, throughput: 1000 frames/s: " in done.stderr
    sender, receiver = kubelet.seen
    assert done.stderr.startswith(f"pod default/{sender['metadata']['name']} is made\n")
    assert sender["metadata"]["labels"] == receiver["metadata"]["labels"]
    assert sender["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert sender["spec"]["containers"][0]["image"] == "wirespeed"
    api.wait(lambda: not measured_pods(api))
    kubelet.stop()
    assert all(map(world.nothing_left, kubelet.ended))


def test_running_pods_are_measured_and_no_pod_is_made(api: ApiServer, world: World, tmp_path: Path) -> None:
    for name in ("left", "right"):
        world.add(world.pod(name, "bridged"))
    on_node(api, world)
    picture = tmp_path / "measure.svg"
    done = ask(api, *ENDS, *SHORT, f"--plot={picture}")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("from net1 in ")
    assert "\nThroughput (RFC 2544, 26.1)\n" in done.stdout
    assert picture.read_text().startswith("<svg ")
    assert pods_made(api) == 0
    assert not [request for request in api.requests if request.verb == "DELETE"]


def test_ctrl_c_removes_the_pods_and_ends_the_command_on_the_node(
    api: ApiServer, world: World, kubelet: Kubelet
) -> None:
    on_node(api, world)
    real, processes = api.commands["wirespeed-n1", "agent"], []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        process = real(command)
        with api.changed:
            processes.append(process)
            api.changed.notify_all()
        return process

    in_agent(api, start)
    main = "from wirespeed.cli.kubectl.commands import main; main()"
    words = ["measure", *NETWORK, "--trial=600", f"--kubeconfig={api.kubeconfig()}"]
    with started([sys.executable, "-c", main, *words]) as asking:
        api.wait(lambda: bool(processes))
        asking.send_signal(signal.SIGINT)
        _, told = asking.communicate(timeout=LIMIT)
    assert (asking.returncode, told.decode().splitlines()[-1]) == (1, "Aborted!")
    assert processes[0].wait(timeout=LIMIT) == 1
    api.wait(lambda: not measured_pods(api))
    assert len(kubelet.seen) == 2


def test_forwarder_and_settings_are_passed_on(api: ApiServer) -> None:
    api.put(user_pod("firewall", nodeName="n1"))
    commands: list[list[str]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        commands.append(command)
        return started(["false"])

    in_agent(api, start)
    through = ("--through=pod/firewall:net1", "--through=02:00:00:00:03:02", "--direct")
    assert ask(api, *ENDS, *through, *SHORT, "--no-real-time").exit_code == 1
    path = ["--from=pod/default/left:net1", "--to=pod/default/right:net1", "--through=pod/default/firewall:net1"]
    flags = ["--through=02:00:00:00:03:02", "--no-real-time", "--direct", "--test=throughput", "--size=128"]
    assert commands[0][:12] == ["wirespeed", "measure", "--json", "--until-eof", *path, *flags]
    assert commands[0][-1] == "--max-rate=1000.0"


# Pods that do not get ready


def test_pod_that_no_node_takes_is_told_with_the_reason_and_both_are_removed(api: ApiServer) -> None:
    done = ask(api, "--network=fast", "--network=bridged", "--node=n1", "--timeout=1")
    assert done.exit_code == 1
    deleted = [request.path.rpartition("/")[2] for request in api.requests if request.verb == "DELETE"]
    assert pods_made(api) == 2
    assert [name.split("-")[2] for name in deleted] == ["receiver", "sender"]
    assert not measured_pods(api)
    assert "\nfrom the API server alone: the pod is on no node, so no agent knows of it\n" in done.stderr
    assert "example.com/none      1  no node offers it" in done.stderr
    assert f"Error: pod default/{deleted[1]}: it is not Ready after 1 s: " in done.stderr


def test_pod_that_is_deleted_before_it_is_ready_is_told(api: ApiServer) -> None:
    def delete() -> None:
        api.wait(lambda: len(measured_pods(api)) == 2)
        for pod in measured_pods(api):
            api.delete("Pod", "default", pod["metadata"]["name"])

    thread = threading.Thread(target=delete)
    thread.start()
    done = ask(api, *NETWORK)
    thread.join()
    assert done.exit_code == 1
    assert done.stderr.endswith(": it was deleted\n")


def test_pod_that_the_node_evicts_is_told_with_the_reason(api: ApiServer) -> None:
    api.put({**user_pod("right", nodeName="n1"), "status": {"phase": "Failed", "reason": "Evicted"}})
    scripted(api, "echo 'Error: net1: no such interface' >&2; exit 1")
    done = ask(api, *ENDS)
    assert done.stderr == ("Error: pod default/right: it has ended (Evicted), so the measurement failed\n")


def test_pod_that_may_not_be_created_is_told_with_the_missing_right(api: ApiServer) -> None:
    message = (
        'pods is forbidden: User "ann" cannot create resource "pods" in API group "" in the namespace "default"'
    )
    api.fault("POST", "/pods", status=403, message=message)
    done = ask(api, *NETWORK)
    assert done.exit_code == 1
    assert done.stderr.endswith(f": the API server forbids it: 403 {message}\n")


def test_pod_that_is_not_removed_is_told_with_the_command_that_removes_it(api: ApiServer) -> None:
    api.fault("DELETE", status=403, message="pods is forbidden")
    done = ask(api, *NETWORK, "--timeout=1")
    names = [pod["metadata"]["name"] for pod in measured_pods(api)]
    for name in names:
        assert f"remove it: kubectl delete pod -n default {name}\n" in done.stderr
    assert len(names) == 2


# Requests that are refused


def test_who_may_not_execute_in_the_agents_pod_is_told_what_that_right_means(api: ApiServer) -> None:
    message = 'pods "wirespeed-n1" is forbidden: User "ann" cannot get resource "pods/exec" in API group ""'
    api.fault(part="/exec", status=403, message=message)
    done = ask(api, *ENDS)
    assert done.stderr == (
        "Error: node n1: agent kube-system/wirespeed-n1: execute a command in it: the API server forbids it: "
        f"403 {message}; it takes the rights get and create on pods/exec, which are as good as root on the node\n"
    )


def test_without_the_right_to_execute_no_pod_is_made(api: ApiServer) -> None:
    api.reviews.forbidden.add(("get", "pods/exec"))
    assert ask(api, *NETWORK).stderr == (
        "Error: node n1: agent kube-system/wirespeed-n1: you may not execute commands in it; "
        "it takes the rights get and create on pods/exec, which are as good as root on the node\n"
    )
    assert pods_made(api) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--network=none", "--node=n1"), "network default/none: the API server has no such object; -n names"),
        (("--network=bridged", "--node=n9"), "node n9: no agent: namespace kube-system has no pod with the label"),
        (("--network=bridged",), "--network makes pods on a node: expected --node"),
        (
            ("--from=ens1", "--to=ens2"),
            "no interface of a pod; expected pod/[NAMESPACE/]NAME:INTERFACE, got 'ens1'",
        ),
        (
            (*ENDS, "--node=n2"),
            "pod default/left: a measurement is between pods of one node; expected a pod on node n2",
        ),
        ((*ENDS, "--through=fast", "--through=fast"), "no port of a forwarder that runs; expected pod/"),
        (("--from=pod/late:net1", ENDS[1]), "pod default/late: it is on no node; `kubectl wirespeed why"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_pods_are_made(
    api: ApiServer, arguments: tuple[str, ...], error: str
) -> None:
    api.put(user_pod("late"))
    done = ask(api, *arguments)
    assert done.exit_code != 0
    assert error in done.stderr
    assert pods_made(api) == 0


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            "printf 'Usage: wirespeed measure [OPTIONS]\\n\\nError: No such option: --until-eof\\n' >&2; exit 2",
            "its `wirespeed measure` does not accept the command line: No such option: --until-eof; use",
        ),
        ("echo 'Error: net1: it has no carrier' >&2; exit 1", "net1: it has no carrier\n"),
        ("kill -9 $$", "`wirespeed measure` ended with status 137\n"),
        ("echo '{}'", "its report is not understood: Object missing required field `version`; use the version"),
    ],
)
def test_failure_of_the_command_on_the_node_is_told(api: ApiServer, script: str, error: str) -> None:
    scripted(api, script)
    done = ask(api, *ENDS)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: node n1: agent kube-system/wirespeed-n1: {error}")


def test_image_without_the_program_is_told_with_the_kubelets_error(api: ApiServer) -> None:
    in_agent(api, lambda command: started(["/nonexistent", *command]))
    done = ask(api, *ENDS)
    assert ": `wirespeed measure` could not be run in it: Internal error occurred: error executing" in done.stderr


def test_agent_whose_container_does_not_run_is_told_with_its_reason(api: ApiServer) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    api.put(agent_pod(None, containerStatuses=[{"name": "agent", "state": waiting}]))
    assert "its container does not run: CrashLoopBackOff; " in ask(api, *ENDS).stderr
