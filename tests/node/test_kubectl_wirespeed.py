"""`kubectl wirespeed`: a node's agent is asked through the API server, as the caller."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.apiserver import ApiServer, Object
from tests.certificates import HAND_MADE, Authority
from tests.node.conftest import ROOT, Agent
from tests.node.test_web import ON_NODE, served
from wirespeed.cli.kubectl import completion
from wirespeed.cli.kubectl.commands import program

StartAgent = Callable[..., Agent]
LIMIT = 120  # seconds, for a busy machine
POD = ("pods", "default", "web")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


def agent_pod(port: int | None, *, node: str = "n1", namespace: str = "kube-system", **status: Any) -> Object:
    """The pod of a node's agent, as the chart's DaemonSet creates it."""
    container: Object = {"name": "agent", "image": "wirespeed"}
    if port is not None:
        container["ports"] = [{"name": "web", "containerPort": port}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"wirespeed-{node}",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "wirespeed", "app.kubernetes.io/component": "agent"},
        },
        "spec": {"nodeName": node, "containers": [container]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "agent", "state": {"running": {}}}],
            **status,
        },
    }


def user_pod(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main"}], **spec},
        "status": {"phase": "Pending"},
    }


@pytest.fixture
def agent(agent_process: StartAgent, api: ApiServer) -> Agent:
    """The agent of node n1, which serves its API at a loopback address."""
    started = agent_process(
        web={"address": "127.0.0.1:0"}, cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1"
    )
    api.put(agent_pod(served(started)[2]))
    return started


def ask(kubeconfig: Path, *arguments: str) -> Result:
    return CliRunner().invoke(program, [*arguments, f"--kubeconfig={kubeconfig}"])


@pytest.fixture
def ann(api: ApiServer) -> Path:
    """The kubeconfig of a user who may see the node and a pod."""
    return api.kubeconfig(token=api.login(api.reviews.user("ann", [ON_NODE, POD])))


@pytest.fixture
def eve(api: ApiServer) -> Path:
    """The kubeconfig of a user who may see nothing."""
    return api.kubeconfig(token=api.login(api.reviews.user("eve")))


def on_the_node(agent: Agent, *command: str) -> str:
    """The output of a command on the node."""
    words = [sys.executable, "-m", "wirespeed", *command, "--config", str(agent.config)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT).stdout


# Answers


def test_answers_are_those_of_the_commands_on_the_node(api: ApiServer, agent: Agent, ann: Path) -> None:
    api.put(user_pod("web", nodeName="n1"))
    for command in (("why", "default/web"), ("why", "default/web", "--json")):
        assert ask(ann, *command).output == on_the_node(agent, *command)
    shown = ask(ann, "topology", "n1", "--json")
    assert json.loads(shown.output) == json.loads(on_the_node(agent, "topology", "--json"))
    assert ask(ann, "topology", "n1").output == on_the_node(agent, "topology")


def test_status_rates_and_findings_of_a_node_are_shown(agent: Agent, ann: Path) -> None:
    status = ask(ann, "status", "n1")
    assert (status.exit_code, status.output.splitlines()[0].partition(",")[0]) == (0, "node n1: agent 0.1.0")
    assert json.loads(ask(ann, "top", "n1", "--json").output)["seconds"] > 0
    assert ask(ann, "top", "n1").exit_code == 0
    told = ask(ann, "doctor", "n1")
    assert (told.exit_code, "checks: " in told.output.splitlines()[-1]) == (1, True)
    findings = json.loads(ask(ann, "doctor", "n1", "--json").output)
    (journal,) = [each for each in findings if each["id"] == "journal-in-memory"]
    assert str(agent.state.parent) in journal["found"]


def test_without_a_node_all_nodes_are_asked_and_one_that_fails_hides_no_other(
    api: ApiServer, agent: Agent, ann: Path
) -> None:
    assert ask(ann, "status").exit_code == 0
    api.put(agent_pod(None, node="n0"))
    told = ask(ann, "status")
    assert told.exit_code == 1
    assert told.output.startswith(
        "node n0: no answer\n  error:  node n0: agent kube-system/wirespeed-n0: its pod has"
    )
    assert "\n\nnode n1: agent 0.1.0, " in told.output
    first, second = map(json.loads, ask(ann, "status", "--json").output.splitlines())
    assert (first["node"], second["node"], second["answer"]["node"]) == ("n0", "n1", "n1")
    assert first["error"].startswith("node n0: agent kube-system/wirespeed-n0: ")


def test_agent_with_tls_is_asked_too(agent_process: StartAgent, api: ApiServer, ann: Path, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    certificate, key, _ = Authority(tmp_path / "tls", HAND_MADE).issue("web", "serverAuth")
    web = {"address": "127.0.0.1:0", "tlsCertificate": str(certificate), "tlsKey": str(key)}
    started = agent_process(web=web, cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1")
    api.put(agent_pod(served(started)[2]))
    assert ask(ann, "status", "n1").output.startswith("node n1: agent 0.1.0, ")
    assert len(json.loads(ask(ann, "doctor", "n1", "--json").output)) > 10


def test_namespace_of_a_pod_is_that_of_the_option_or_of_the_context(
    api: ApiServer, agent: Agent, tmp_path: Path
) -> None:
    user = api.reviews.user("bob", [("pods", "shop", "web")])
    api.put({**user_pod("web", nodeName="n1"), "metadata": {"name": "web", "namespace": "shop"}})
    kubeconfig = api.kubeconfig(token=api.login(user))
    assert "pod default/web: the API server has no such object; -n names" in ask(kubeconfig, "why", "web").output
    assert ask(kubeconfig, "why", "web", "-n", "shop").output.startswith("pod shop/web on n1: ")
    config = json.loads(kubeconfig.read_text())
    config["contexts"].append({"name": "y", "context": {"cluster": "c", "user": "u", "namespace": "shop"}})
    kubeconfig.write_text(json.dumps(config))
    assert ask(kubeconfig, "why", "web", "--context", "y").output.startswith("pod shop/web on n1: ")


# Who may see what


def test_who_may_not_get_the_node_is_told_which_right_is_missing(agent: Agent, eve: Path) -> None:
    told = ask(eve, "status", "n1")
    assert told.exit_code == 1
    assert told.output == (
        "Error: node n1: agent kube-system/wirespeed-n1: user eve may not get nodes n1; "
        "the ClusterRole wirespeed-viewer of the chart has this right\n"
    )


def test_who_may_not_connect_to_the_pod_is_told_so(api: ApiServer, agent: Agent, ann: Path) -> None:
    message = 'pods "wirespeed-n1" is forbidden: User "ann" cannot get resource "pods/portforward" in API group ""'
    api.fault(part="/portforward", status=403, message=message)
    told = ask(ann, "status", "n1")
    assert told.output == (
        "Error: node n1: agent kube-system/wirespeed-n1: port-forward to it: the API server forbids it: "
        f"403 {message}; the Role wirespeed-connect of the chart has this right\n"
    )


def test_client_certificate_is_no_token_and_a_service_account_has_one(api: ApiServer, agent: Agent) -> None:
    certificate, key = api.certificate()
    kubeconfig = api.kubeconfig(**{"client-certificate": str(certificate), "client-key": str(key)})
    told = ask(kubeconfig, "status", "n1")
    assert told.exit_code == 1
    assert "it has no token for the agent, which cannot check a client certificate or a password; " in told.output
    assert "--as-service-account [NAMESPACE/]NAME asks as" in told.output
    api.reviews.account("kube-system", "viewer", [ON_NODE])
    shown = ask(kubeconfig, "status", "n1", "--as-service-account", "kube-system/viewer")
    assert shown.output.startswith("node n1: agent 0.1.0, ")
    unknown = ask(kubeconfig, "status", "n1", "--as-service-account", "other")
    assert unknown.output.endswith("service account default/other: the API server has no such object\n")


def test_no_token_is_sent_to_a_pod_of_another_namespace(api: ApiServer, ann: Path) -> None:
    api.put(agent_pod(1, namespace="default"))
    told = ask(ann, "status", "n1")
    assert told.output == (
        "Error: node n1: no agent: namespace kube-system has no pod with the label "
        "app.kubernetes.io/name=wirespeed on it; --agent-namespace names the namespace of the agents\n"
    )
    assert not [request for request in api.requests if request.path.endswith("/portforward")]


# Agents that cannot be asked


def test_agent_without_the_api_is_told_with_the_value_that_enables_it(api: ApiServer, ann: Path) -> None:
    api.put(agent_pod(None))
    assert ask(ann, "status", "n1").output == (
        "Error: node n1: agent kube-system/wirespeed-n1: its pod has no port web: it does not serve the API; "
        "the chart's value web.enabled=true makes the agents serve it\n"
    )


def test_agent_that_does_not_run_is_told_with_its_reason(api: ApiServer, ann: Path) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    api.put(agent_pod(9809, containerStatuses=[{"name": "agent", "state": waiting}]))
    assert "its container does not run: ImagePullBackOff: no such image; " in ask(ann, "status", "n1").output


def test_port_that_nobody_serves_is_told_with_the_kubelets_error(
    api: ApiServer, ann: Path, unused_port: int
) -> None:
    api.put(agent_pod(unused_port, conditions=[{"type": "Ready", "status": "False"}]))
    told = ask(ann, "status", "n1").output
    assert f"its port {unused_port} does not answer: error forwarding port {unused_port}" in told
    assert "Connection refused; the pod is not Ready; web.address has to be" in told


def test_agent_of_a_version_without_the_view_is_told_so(api: ApiServer, ann: Path, old_agent: int) -> None:
    api.put(agent_pod(old_agent))
    assert ask(ann, "doctor", "n1").output == (
        "Error: node n1: agent kube-system/wirespeed-n1: version 0.0.1 of the agent has no view doctor; "
        "upgrade the chart\n"
    )


def test_answer_that_is_not_understood_is_told_so(api: ApiServer, ann: Path, old_agent: int) -> None:
    api.put(agent_pod(old_agent))
    assert (
        "its view status is not understood: Object missing required field `node`" in ask(ann, "status", "n1").output
    )


@pytest.fixture
def unused_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


class _Old(http.server.BaseHTTPRequestHandler):
    """An agent of an early version: it has one view."""

    def do_HEAD(self) -> None:
        self._answer(200, {})

    def do_GET(self) -> None:
        index = {"node": "n1", "version": "0.0.1", "views": ["status"]}
        status, answer = {"/v1": (200, index), "/v1/status": (200, {})}.get(self.path, (404, {"error": "none"}))
        self._answer(status, answer)

    def _answer(self, status: int, answer: Object) -> None:
        self.send_response(status)
        data = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    protocol_version = "HTTP/1.1"


@pytest.fixture
def old_agent() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Old) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


# From the API server alone


def test_pod_on_no_node_is_answered_from_the_api_server_with_who_offers_its_devices(
    api: ApiServer, ann: Path
) -> None:
    dpdk = {"intel.com/left_dpdk": "2"}
    pod = user_pod("web", containers=[{"name": "main", "resources": {"limits": {**dpdk, "cpu": "1"}}}])
    reason = "0/3 nodes are available: 3 Insufficient intel.com/left_dpdk."
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": reason}]
    uid = api.put(pod)["metadata"]["uid"]
    for number, allocatable in enumerate([{"intel.com/left_dpdk": "2"}, {"intel.com/left_dpdk": "0"}, {}], start=1):
        api.put({"kind": "Node", "metadata": {"name": f"n{number}"}, "status": {"allocatable": allocatable}})
    api.put(user_pod("other", nodeName="n1", containers=[{"name": "main", "resources": {"requests": dpdk}}]))
    event = {"kind": "Event", "metadata": {"name": "e1", "namespace": "default"}, "type": "Warning"}
    about = {"kind": "Pod", "name": "web", "namespace": "default", "uid": uid}
    api.put(
        {
            **event,
            "involvedObject": about,
            "reason": "FailedScheduling",
            "message": reason,
            "count": 3,
            "lastTimestamp": "2026-01-02T03:04:05Z",
        }
    )
    told = ask(ann, "why", "web")
    assert told.exit_code == 0
    assert (
        told.output
        == f"""\
pod default/web: the scheduler finds no node for it: {reason}
  do:     `wirespeed status` on a node shows its pools, and `kubectl describe node NODE` what is allocated

from the API server alone: the pod is on no node, so no agent knows of it

RESOURCE             ASKED  NODE  ALLOCATABLE  REQUESTED
intel.com/left_dpdk      2  n1              2          2
intel.com/left_dpdk      2  n2              0          0

LAST WARNINGS
  2026-01-02T03:04:05Z  FailedScheduling (3 times): {reason}
"""
    )
    found = json.loads(ask(ann, "why", "web", "--json").output)
    assert found["resources"][0]["nodes"][0] == {"node": "n1", "allocatable": 2, "requested": 2}
    assert found["unasked"] == "the pod is on no node, so no agent knows of it"


def test_resource_that_no_node_offers_and_rights_that_are_missing_are_told(api: ApiServer, ann: Path) -> None:
    api.put(user_pod("web", containers=[{"name": "main", "resources": {"limits": {"intel.com/none": 1}}}]))
    assert "intel.com/none      1  no node offers it            -          -" in ask(ann, "why", "web").output
    api.fault("LIST", "/api/v1/nodes", status=403, message="nodes is forbidden")
    told = ask(ann, "why", "web")
    assert told.exit_code == 0
    assert "\nnot known: nodes: the API server forbids it: 403 nodes is forbidden\n" in told.output


def test_pod_on_a_node_without_an_agent_is_answered_from_the_api_server_alone(api: ApiServer, ann: Path) -> None:
    pod = user_pod("web", nodeName="n9")
    pod["status"]["containerStatuses"] = [{"name": "main", "state": {"waiting": {"reason": "ErrImagePull"}}}]
    api.put(pod)
    told = ask(ann, "why", "web").output
    assert told.startswith(
        "pod default/web on n9: it is on its node in phase Pending; what happened there is known"
    )
    assert "\n  do:     container main: ErrImagePull\n" in told
    assert "\nfrom the API server alone: its agent cannot be asked: node n9: no agent: " in told


def test_findings_about_a_pod_are_those_of_its_node(api: ApiServer, agent: Agent, ann: Path) -> None:
    api.put(user_pod("late"))
    assert "pod default/late: it is on no node; `kubectl wirespeed why default/late` says why" in (
        ask(ann, "doctor", "--pod", "late").output
    )
    api.put(user_pod("web", nodeName="n1"))
    assert "pod default/web is on node n1, not on n2" in ask(ann, "doctor", "n2", "--pod", "web").output
    told = ask(ann, "doctor", "--pod", "web")  # no process of it is there
    assert (
        told.exit_code,
        "node n1: agent kube-system/wirespeed-n1: pod default/web: no process" in told.output,
    ) == (
        1,
        True,
    )


# Completion


def test_kubectl_completes_commands_nodes_and_pods(
    api: ApiServer,
    agent: Agent,
    ann: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.put(user_pod("web"))
    monkeypatch.setenv("KUBECONFIG", f"/nonexistent:{ann}")

    def suggested(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-wirespeed", *words])
        completion.main()
        *found, directive = capsys.readouterr().out.splitlines()
        assert directive == ":4"
        return [line.partition("\t")[0] for line in found]

    assert suggested("to") == ["top", "topology"]
    assert suggested("status", "") == ["n1"]
    assert suggested("why", "w") == ["web"]
    assert suggested("why", "-n", "kube-system", "") == ["wirespeed-n1"]
    assert suggested("why", "kube-system/") == ["kube-system/wirespeed-n1"]
    assert suggested("why", "--name") == ["--namespace"]
    api.stop()
    assert suggested("status", "") == []
