"""wirespeed in the cluster, installed as a user would install it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster.kube import Kube
from tests.cluster.state import state

REPO = Path(__file__).resolve().parents[2]
RELEASE = "wirespeed"
NAMESPACE = "kube-system"
CHART = str(REPO / "deploy/chart")


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> str:
    """Return helm's output. AssertionError with its error."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        given = [f"--values={file.name}"] if values is not None else []
        done = subprocess.run(
            [os.environ["HELM"], f"--namespace={NAMESPACE}", *arguments, *given],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def install(values: Mapping[str, Any] | None = None, *, presets: Iterable[str] = ()) -> None:
    """Installs the chart of this tree, with presets and additional values."""
    # Pools that match the examples; CHART_VALUES has the image that was imported on the nodes.
    files = [*(f"{CHART}/presets/{name}.yaml" for name in presets), REPO / "examples/node/values.yaml"]
    given = [f"--values={file}" for file in (*files, os.environ["CHART_VALUES"])]
    helm("upgrade", "--install", RELEASE, CHART, *given, values=values)


def is_installed() -> bool:
    """Whether the release exists."""
    return RELEASE in helm("list", "--short").split()


def uninstall(kube: Kube, nodes: Iterable[Remote]) -> None:
    """Uninstalls the release, once the runtimes have detached all pods (after the objects are gone)."""
    for node in nodes:
        kube.until(
            f"no pod of {node.name} is attached",
            lambda node=node: not state(node).get("attachment"),  # type: ignore[misc]
        )
    helm("uninstall", RELEASE, "--timeout=600s")


def agents(kube: Kube) -> list[dict[str, Any]]:
    """The agents' pods."""
    return kube.inside(NAMESPACE).items("pods", "--selector=app.kubernetes.io/name=wirespeed")


def agents_ready(kube: Kube) -> None:
    """Waits until every node has a Ready agent."""
    system = kube.inside(NAMESPACE)

    def ready() -> bool:
        found = [pod for pod in agents(kube) if is_ready(pod)]
        return {pod["spec"]["nodeName"] for pod in found} == {
            node["metadata"]["name"] for node in kube.items("nodes")
        }

    system.until("every node has an agent that is Ready", ready)


def upgrade(kube: Kube, values: Mapping[str, Any]) -> None:
    """Changes these values of the release, and waits until its agents use them."""
    helm("upgrade", RELEASE, CHART, "--reuse-values", values=values)
    rolled_out(kube)


def rollback(kube: Kube) -> None:
    """Restores the release's previous revision."""
    helm("rollback", RELEASE)
    rolled_out(kube)


def rolled_out(kube: Kube) -> None:
    """Waits until all agents are of the release's latest revision, and Ready."""
    kube.inside(NAMESPACE).run("rollout", "status", "daemonset/wirespeed", "--timeout=600s", timeout=620)


def make_vfs(node: Remote) -> None:
    """Creates a node's VFs as an administrator would: now and at each boot."""
    policy = "/etc/wirespeed/vf.d/vfs.yaml"
    node.run(
        f"mkdir -p {Path(policy).parent} && cat > {policy}", given=(REPO / "examples/node/vfs.yaml").read_bytes()
    )
    node.run(f"wirespeed vf apply --yes {policy}", timeout=300)


def vfs_offered(kube: Kube, nodes: Iterable[str]) -> None:
    """Waits until these nodes offer the VFs of examples/node."""
    wanted = {"intel.com/left_kernel": "4", "intel.com/left_dpdk": "2", "intel.com/right_dpdk": "2"}

    def offered(name: str) -> bool:
        there = kube.get("node", name)["status"]["allocatable"]
        return all(there.get(resource) == number for resource, number in wanted.items())

    for name in nodes:
        kube.until(f"{name} offers its VFs", lambda name=name: offered(name))  # type: ignore[misc]
