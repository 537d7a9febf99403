"""The admission policies on a real API server: what an agent may write, and what a stolen token may not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.chart.conftest import Helm, own_namespace
from tests.cluster.kube import PATIENCE, Kube, Object, kubeconfig
from wirespeed.errors import Error
from wirespeed.kube.api import Api, RefusedError, Timeouts
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import Event

STATUS = "k8s.v1.cni.cncf.io/network-status"
NEAR, FAR = "near.example", "far.example"  # nodes without a kubelet
_WAITS = Timeouts(connect=10.0, read=PATIENCE, total=PATIENCE)


def pod(namespace: str, name: str, node: str, account: str = "default") -> Object:
    labels = {"app": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": {"other": "1"}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none.example/none", "imagePullPolicy": "Never"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }


@dataclass(frozen=True)
class Writer:
    """A client with a token. Each call returns the API server's error message, or "" if it succeeds."""

    api: Api
    namespace: str

    def patch_pod(self, name: str, body: Object) -> str:
        return self._said(lambda: self.api.patch(f"{self._path('pods', name)}/status", body, timeouts=_WAITS))

    def make_event(self, made: Object) -> str:
        return self._said(lambda: self.api.post(self._path("events"), made, timeouts=_WAITS))

    def patch_event(self, name: str, body: Object) -> str:
        return self._said(lambda: self.api.patch(self._path("events", name), body, timeouts=_WAITS))

    def _path(self, *parts: str) -> str:
        return "/".join(["/api/v1/namespaces", self.namespace, *parts])

    def _said(self, ask: Callable[[], object]) -> str:
        try:
            ask()
        except RefusedError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def namespace(kubectl: Kube) -> Iterator[str]:
    """One namespace for all tests of this module."""
    with own_namespace(kubectl) as name:
        yield name


@pytest.fixture(scope="module")
def writer(
    kubectl: Kube, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Writer]]:
    """Make a writer from a token; "" is the administrator's."""
    folder = tmp_path_factory.mktemp("writers")
    with ExitStack() as opened:
        yield lambda token: Writer(
            opened.enter_context(closing(Api(kubeconfig(kubectl, token, folder)))), namespace
        )


@pytest.fixture(scope="module")
def nameless(helm: Helm, kubectl: Kube, namespace: str, writer: Callable[[str], Writer]) -> Iterator[Writer]:
    """Create the agent's account, role and policies, and pods of the agent and of others on two nodes.

    The writer has a token of the agent's account that names no node.
    """
    only = ["--show-only=templates/rbac.yaml", "--show-only=templates/admission.yaml"]
    objects = helm.objects(*only, release=f"wirespeed-{namespace}", namespace=namespace)
    account = next(each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount")
    other = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other", "namespace": namespace}}
    # Without the Node objects, the garbage collector would delete their pods.
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": True}}
        for name in (NEAR, FAR)
    ]
    kubectl.apply(other, *nodes, *objects)
    kubectl.apply(
        pod(namespace, "agent-near", NEAR, account),
        pod(namespace, "agent-far", FAR, account),
        pod(namespace, "near", NEAR, "other"),
        pod(namespace, "busy", NEAR, "other"),
        pod(namespace, "far", FAR, "other"),
    )
    stolen = writer(kubectl.run("-n", namespace, "create", "token", account).strip())
    # The API server needs some time until it applies the role and the policies.
    _await_refusal(lambda: stolen.patch_pod("near", {"metadata": {"annotations": {STATUS: "[]"}}}))
    _await_refusal(lambda: stolen.make_event(event(namespace, "near", NEAR)))
    yield stolen
    kubectl.run("-n", namespace, "delete", "pod", "--all", "--force", "--grace-period=0")
    for each in [*nodes, *objects]:
        if "namespace" not in each["metadata"]:
            kubectl.run("delete", each["kind"], each["metadata"]["name"])


@pytest.fixture(scope="module")
def agent(nameless: Writer, kubectl: Kube, namespace: str, writer: Callable[[str], Writer]) -> Writer:
    """A writer with the token of the agent's pod on the node NEAR."""
    return writer(token_of(kubectl, namespace, "agent-near"))


def token_of(kubectl: Kube, namespace: str, name: str) -> str:
    """A token bound to a pod, as the kubelet requests it."""
    found = kubectl.get("-n", namespace, "pod", name)
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={_uid(found)}"]
    return kubectl.run("-n", namespace, "create", "token", found["spec"]["serviceAccountName"], *bound).strip()


def _uid(found: Object) -> str:
    return str(found["metadata"]["uid"])


def event(namespace: str, name: str, node: str, **more: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"e-{uuid.uuid4().hex}", "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name},
        "reason": "AddedInterface",
        "message": "net1",
        "type": "Normal",
        "source": {"component": "wirespeed", "host": node},
        "reportingComponent": "wirespeed",
        "reportingInstance": node,
        "count": 1,
        **more,
    }


def cluster(kubectl: Kube, token: str, folder: Path) -> ApiCluster:
    """The agent's own API client, with this token."""
    return ApiCluster(kubeconfig=kubeconfig(kubectl, token, folder), node_name=NEAR, watch=False)


# What the agent writes


def test_agent_writes_all_that_it_writes(nameless: Writer, kubectl: Kube, namespace: str, tmp_path: Path) -> None:
    uid = _uid(kubectl.get("-n", namespace, "pod", "busy"))
    token = token_of(kubectl, namespace, "agent-near")
    with closing(cluster(kubectl, token, tmp_path)) as agent:
        agent.set_network_status(namespace, "busy", uid, [{"name": "x", "interface": "net1"}])
        agent.set_network_status(namespace, "busy", uid, [])
        agent.annotate(namespace, "busy", uid, lambda _: {"userspace/mapped-dir": "/x"})
        agent.annotate(namespace, "busy", uid, lambda _: {"userspace/configuration-data": "[]"})
        told = Event(namespace=namespace, name="busy", uid=uid, reason="AddedInterface", message="net1")
        agent.event(told)
        _await(lambda: _events(kubectl, namespace, "busy") == [1])
        agent.event(told)
        _await(lambda: _events(kubectl, namespace, "busy") == [2])
        message = f"of {namespace}"
        agent.event(
            Event(kind="Node", name=NEAR, uid=NEAR, reason="PluginTakenBack", message=message, warning=True)
        )
        of_nodes = ("-n", "default", "events", "--field-selector=involvedObject.kind=Node,reason=PluginTakenBack")
        _await(lambda: message in [each["message"] for each in kubectl.get(*of_nodes)["items"]])
    found = kubectl.get("-n", namespace, "pod", "busy")["metadata"]
    assert found["annotations"].keys() >= {STATUS, "userspace/mapped-dir", "userspace/configuration-data", "other"}


def test_agent_of_another_node_is_refused_by_the_policy(
    nameless: Writer, kubectl: Kube, namespace: str, tmp_path: Path
) -> None:
    uid = _uid(kubectl.get("-n", namespace, "pod", "far"))
    with (
        closing(cluster(kubectl, token_of(kubectl, namespace, "agent-near"), tmp_path)) as agent,
        pytest.raises(Error, match=f"forbids it.*expected a pod of node {NEAR}.*it is on {FAR}"),
    ):
        agent.set_network_status(namespace, "far", uid, [])


def _events(kubectl: Kube, namespace: str, name: str) -> list[int]:
    found = kubectl.get("-n", namespace, "events", f"--field-selector=involvedObject.name={name}")["items"]
    return [each["count"] for each in found if each["reason"] == "AddedInterface"]


def _await_refusal(ask: Callable[[], str]) -> None:
    until = time.monotonic() + PATIENCE
    while "names no node" not in (said := ask()):
        assert time.monotonic() < until, said or "it is still allowed"
        time.sleep(0.1)


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


# What a stolen token may not write


def test_token_without_a_node_writes_nothing(nameless: Writer, namespace: str) -> None:
    for name in ("near", "far"):
        error = nameless.patch_pod(name, {"metadata": {"annotations": {STATUS: "[]"}}})
        assert "expected a token of a pod: this one names no node" in error
    assert "names no node" in nameless.make_event(event(namespace, "near", NEAR))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"metadata": {"annotations": {"other": "2"}}}, "no change of other annotations"),
        ({"metadata": {"annotations": {"other": None}}}, "no change of other annotations"),
        ({"metadata": {"annotations": {"new": "x"}}}, "no change of other annotations"),
        ({"metadata": {"annotations": {"new": "x", STATUS: "[]"}}}, "no change of other annotations"),
        ({"metadata": {"labels": {"app": "x"}}}, "a change of annotations only"),
        ({"metadata": {"finalizers": ["example.com/x"]}}, "a change of annotations only"),
        ({"status": {"phase": "Failed"}}, "a change of annotations only"),
        ({"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]}}, "a change of annotations only"),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, "a change of annotations only"),
    ],
    ids=str,
)
def test_nothing_else_of_an_own_pod_is_written(agent: Writer, namespace: str, body: Object, said: str) -> None:
    assert f"expected {said}" in agent.patch_pod("near", body)


@pytest.mark.parametrize("name", ["far", "agent-far"])
def test_pods_of_other_nodes_are_not_written(agent: Writer, namespace: str, name: str) -> None:
    assert agent.patch_pod("near", {"metadata": {"annotations": {STATUS: "[]"}}}) == ""
    error = agent.patch_pod(name, {"metadata": {"annotations": {STATUS: "[]"}}})
    assert f"expected a pod of node {NEAR}, whose token this is; it is on {FAR}" in error


def test_pod_without_a_node_is_not_written(agent: Writer, kubectl: Kube, namespace: str) -> None:
    pending = pod(namespace, "pending", "", "other")
    del pending["spec"]["nodeName"]
    pending["spec"]["schedulingGates"] = [{"name": "example.com/gate"}]
    kubectl.apply(pending)
    error = agent.patch_pod("pending", {"metadata": {"annotations": {STATUS: "[]"}}})
    assert "it is on none" in error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"source": {"component": "wirespeed", "host": FAR}},
            f"an event with source.host and reportingInstance {NEAR}",
        ),
        ({"reportingInstance": FAR}, f"an event with source.host and reportingInstance {NEAR}"),
        ({"source": {"component": "kubelet", "host": NEAR}}, "an event of wirespeed, of a pod"),
        ({"reportingComponent": "kubelet"}, "an event of wirespeed, of a pod"),
        ({"source": {}}, f"an event with source.host and reportingInstance {NEAR}"),
        (
            {"involvedObject": {"apiVersion": "v1", "kind": "Node", "name": FAR}},
            "an event of wirespeed, of a pod or of its own node",
        ),
        (
            {"involvedObject": {"apiVersion": "v1", "kind": "Secret", "name": NEAR}},
            "an event of wirespeed, of a pod or of its own node",
        ),
    ],
    ids=str,
)
def test_events_of_others_are_not_made(agent: Writer, namespace: str, change: Object, said: str) -> None:
    if "involvedObject" in change:
        change["involvedObject"]["namespace"] = namespace
    assert agent.make_event(event(namespace, "near", NEAR)) == ""
    assert f"expected {said}" in agent.make_event(event(namespace, "near", NEAR, **change))


def test_an_events_text_is_not_rewritten_nor_that_of_another_node(
    agent: Writer, namespace: str, writer: Callable[[str], Writer]
) -> None:
    for name, node in (("ours", NEAR), ("theirs", FAR)):
        made = event(namespace, "near", node)
        made["metadata"] = {"name": name, "namespace": namespace}
        assert writer("").make_event(made) == ""
    assert agent.patch_event("ours", {"count": 2, "lastTimestamp": "2026-01-01T00:00:00Z"}) == ""
    for body in ({"message": "x"}, {"reason": "x"}, {"type": "Warning"}, {"metadata": {"labels": {"a": "b"}}}):
        assert "expected a change of count and lastTimestamp only" in agent.patch_event("ours", body)
    error = agent.patch_event("theirs", {"count": 2})
    assert f"expected an event with source.host and reportingInstance {NEAR}" in error


def test_others_write_as_before(nameless: Writer, namespace: str, writer: Callable[[str], Writer]) -> None:
    assert writer("").patch_pod("far", {"metadata": {"annotations": {"other": "2"}}}) == ""
    assert writer("").make_event(event(namespace, "near", FAR)) == ""


def test_policies_have_no_mistake_of_types(nameless: Writer, kubectl: Kube, namespace: str) -> None:
    for kind in ("pods", "events"):
        name = f"wirespeed-{namespace}-{kind}"
        until = time.monotonic() + PATIENCE
        while "observedGeneration" not in (kubectl.get("validatingadmissionpolicy", name).get("status") or {}):
            assert time.monotonic() < until
        checked = kubectl.get("validatingadmissionpolicy", name)["status"].get("typeChecking") or {}
        assert not checked.get("expressionWarnings")
