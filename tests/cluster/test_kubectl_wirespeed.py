"""`kubectl wirespeed` on a real cluster: as users with different rights; what the doctor finds on a real node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.remote import Remote
from tests.cluster import plugin, release
from tests.cluster.kube import Kube, kubeconfig
from tests.cluster.manifests import pod
from tests.cluster.plugin import Ask

# Checks of what the node of a running pod must have. Its processes are hidden from the agent: the node is in a PID
# namespace of its own, so the checks that look for processes are unknown.
IN_ORDER = (
    "kubelet-registration-socket",
    "kubelet-pod-resources",
    "cni-first",
    "cni-plugins",
    "agent-answers",
    "journal-in-memory",
    "runtime-answers",
    "runtime-cni-directory",
    "api-server",
    "permissions",
    "networks-resource",
)


@pytest.fixture(scope="module")
def web(wirespeed: Kube) -> Iterator[Kube]:
    """The agents serve their API."""
    release.upgrade(wirespeed, {"web": {"enabled": True}})
    yield wirespeed
    release.rollback(wirespeed)


@pytest.fixture(scope="module")
def ask(web: Kube, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Run kubectl with the plugin and the kubeconfig of a user, "" for the administrator."""
    return plugin.installed(web, tmp_path_factory.mktemp("bin"))


@pytest.fixture
def users(web: Kube, kube: Kube, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Kubeconfigs: who may see everything, who may connect and see nothing, and who may do nothing."""
    system = web.inside(release.NAMESPACE)
    found = {}
    for name in ("viewer", "connected", "nobody"):
        kube.run("create", "serviceaccount", name)
        found[name] = kubeconfig(kube, kube.run("create", "token", name).strip(), tmp_path)
    subjects = {name: f"--serviceaccount={kube.namespace}:{name}" for name in found}
    bindings = f"{kube.namespace}-see", f"{kube.namespace}-connect"
    web.run("create", "clusterrolebinding", bindings[0], "--clusterrole=wirespeed-viewer", subjects["viewer"])
    connect = ("--role=wirespeed-connect", subjects["viewer"], subjects["connected"])
    system.run("create", "rolebinding", bindings[1], *connect)
    yield found
    web.delete("clusterrolebinding", bindings[0])
    system.delete("rolebinding", bindings[1])


def test_users_see_what_their_rights_allow(
    users: dict[str, str], ask: Ask, networks: Kube, nodes: list[Remote], administrator: Kube
) -> None:
    node, space = nodes[0].name, networks.namespace
    networks.apply(pod("attached", ["one"], node=node), pod("no-network", ["missing"], node=node))
    networks.apply(pod("no-device", ["one"], resources={"example.com/none": 1}))
    networks.pods_ready("attached")
    viewer = users["viewer"]
    networks.until("the roles are in force", lambda: ask(viewer, "status", node).status == 0)

    status = ask(viewer, "status", node)
    assert status.out.startswith(f"node {node}: agent ")
    assert f"{space}/attached" in status.out
    assert f"node {node}: agent " in ask(viewer, "status").out  # of all nodes
    assert json.loads(ask(viewer, "topology", node, "--json").out)["node"] == node
    assert json.loads(ask(viewer, "top", node, "--json").out)["seconds"] > 0

    (agent,) = (each for each in release.agents(administrator) if each["spec"]["nodeName"] == node)
    inside = ("exec", agent["metadata"]["name"], "--container=agent", "--", "wirespeed")
    system = administrator.inside(release.NAMESPACE)
    assert ask(viewer, "why", "-n", space, "attached").out == system.run(*inside, "why", f"{space}/attached")
    stuck = networks.until(
        "the failed ADD is known",
        lambda: next(
            (told.out for told in [ask(viewer, "why", f"{space}/no-network")] if "ADD fails at" in told.out), ""
        ),
    )
    assert f"pod {space}/no-network on {node}: ADD fails at: resolve the networks" in stuck

    unscheduled = networks.until(
        "the scheduler has given its reason",
        lambda: next(
            (told.out for told in [ask(viewer, "why", f"{space}/no-device")] if "Insufficient" in told.out), ""
        ),
    )
    assert "from the API server alone: the pod is on no node, so no agent knows of it" in unscheduled
    assert "no node offers it" in unscheduled
    assert "FailedScheduling" in unscheduled

    connected = ask(users["connected"], "status", node)
    assert connected.status == 1
    assert f"user system:serviceaccount:{space}:connected may not get nodes {node}; " in connected.error
    nobody = ask(users["nobody"], "status", node)
    assert nobody.status == 1
    assert 'cannot list resource "pods" in API group "" in the namespace "kube-system"' in nobody.error
    certificate = ask("", "status", node)
    assert "it has no token for the agent, which cannot check a client certificate" in certificate.error
    assert ask("", "status", node, "--as-service-account", f"{space}/viewer").out.startswith(f"node {node}: agent ")
    suggested = ask(viewer, "why", "-n", space, "att", first=("__complete", "wirespeed"))
    assert suggested.out.splitlines() == ["attached", ":4"]


def test_findings_of_a_real_node_are_about_what_is_wrong_there(
    users: dict[str, str], ask: Ask, networks: Kube, nodes: list[Remote]
) -> None:
    node = nodes[0].name
    networks.apply(pod("checked", ["one"], node=node))
    networks.pods_ready("checked")
    viewer = users["viewer"]
    networks.until("the roles are in force", lambda: ask(viewer, "status", node).status == 0)
    told = ask(viewer, "doctor", "--pod", f"{networks.namespace}/checked", "--json")
    findings: dict[str, set[str]] = {}
    for each in json.loads(told.out):
        findings.setdefault(each["id"], set()).add(each["severity"])
    wrong = {name for name, found in findings.items() if "error" in found}
    assert wrong <= {"hugepages-reserved"}  # the machine has some, or has none
    assert told.status == (1 if wrong else 0)
    assert {name: findings[name] for name in IN_ORDER} == {name: {"ok"} for name in IN_ORDER}
    assert findings["pod-devices"] == {"info"}  # it has none
    assert "  warning sriov-card: no physical network card\n" in ask(viewer, "doctor", node).out
