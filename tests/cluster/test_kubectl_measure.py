"""`kubectl wirespeed measure` on a real cluster: with the rights in its documentation, and without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.remote import Remote
from tests.cluster import plugin, release
from tests.cluster.kube import Kube, kubeconfig
from wirespeed.cli.kubectl.measuring import LABEL
from wirespeed.measure.report import Report

NETWORKS = "network-attachment-definitions.k8s.cni.cncf.io"
SHORT = ("--test=throughput", "--size=64", "--trial=1", "--pause=0", "--max-rate=2000")


@pytest.fixture
def users(kube: Kube, wirespeed: Kube, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Kubeconfigs: who may make pods and execute commands in the agents, and who may only make pods."""
    system, name = wirespeed.inside(release.NAMESPACE), f"{kube.namespace}-measure"
    found = {}
    for user in ("measurer", "nobody"):
        kube.run("create", "serviceaccount", user)
        found[user] = kubeconfig(kube, kube.run("create", "token", user).strip(), tmp_path)
    subjects = {user: f"--serviceaccount={kube.namespace}:{user}" for user in found}
    kube.run("create", "role", "pods", "--verb=create,get,delete", "--resource=pods")
    kube.run("create", "role", "networks", "--verb=get", f"--resource={NETWORKS}")
    for role in ("pods", "networks"):
        kube.run("create", "rolebinding", role, f"--role={role}", *subjects.values())
    system.run("create", "role", f"{name}-exec", "--verb=get,create", "--resource=pods/exec")
    system.run("create", "role", f"{name}-list", "--verb=list", "--resource=pods")
    system.run("create", "rolebinding", f"{name}-exec", f"--role={name}-exec", subjects["measurer"])
    system.run("create", "rolebinding", f"{name}-list", f"--role={name}-list", *subjects.values())
    who = f"--as=system:serviceaccount:{kube.namespace}:measurer"

    def in_force() -> bool:
        rights = (
            (system, ("get", "pods", "--subresource=exec")),
            (system, ("list", "pods")),
            (kube, ("create", "pods")),
            (kube, ("get", NETWORKS)),
        )
        answers = [inside.run("auth", "can-i", *right, who, check=False) for inside, right in rights]
        return all(answer.strip() == "yes" for answer in answers)

    kube.until("the roles are in force", in_force)
    yield found
    for part in ("exec", "list"):
        system.delete("rolebinding", f"{name}-{part}")
        system.delete("role", f"{name}-{part}")


def test_pods_are_made_on_the_node_measured_and_removed(
    users: dict[str, str], networks: Kube, nodes: list[Remote], tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    ask = plugin.installed(networks, tmp_path / "bin")
    path = ("-n", networks.namespace, "--network=one", "--node", nodes[0].name)
    arguments = ("measure", *path, *SHORT, "--json")

    done = ask(users["measurer"], *arguments)
    assert done.status == 0, done.error
    (size,) = msgspec.json.decode(done.out, type=Report).sizes
    assert size.throughput
    assert size.throughput.trials[0].received > 0
    assert "64 bytes, throughput: " in done.error

    refused = ask(users["nobody"], *arguments)
    assert refused.status == 1
    assert ": you may not execute commands in it; it takes the rights get and create on pods/exec" in refused.error

    unknown = ask(users["measurer"], "measure", "-n", networks.namespace, "--network=none", *path[-2:])
    assert f"network {networks.namespace}/none: the API server has no such object" in unknown.error
    networks.until("the pods are removed", lambda: not networks.items("pods", f"--selector={LABEL}"))
