"""wirespeed in the cluster: installed as a user installs it."""

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
    """helm's output; AssertionError with its error."""
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
    """Installs the chart of this tree, with presets of it and more values."""
    # Pools as the examples need them; the image as nodes have imported it.
    files = [*(f"{CHART}/presets/{name}.yaml" for name in presets), REPO / "examples/node/values.yaml"]
    given = [f"--values={file}" for file in (*files, os.environ["CHART_VALUES"])]
    helm("upgrade", "--install", RELEASE, CHART, *given, values=values)


def is_installed() -> bool:
    """Whether there is a release."""
    return RELEASE in helm("list", "--short").split()


def uninstall(kube: Kube, nodes: Iterable[Remote]) -> None:
    """Takes the release away, when no pod is attached any more: a runtime detaches it after its object is gone."""
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
    """Waits until every node has an agent that is Ready."""
    system = kube.inside(NAMESPACE)

    def ready() -> bool:
        found = [pod for pod in agents(kube) if is_ready(pod)]
        return {pod["spec"]["nodeName"] for pod in found} == {
            node["metadata"]["name"] for node in kube.items("nodes")
        }

    system.until("every node has an agent that is Ready", ready)


def upgrade(kube: Kube, values: Mapping[str, Any]) -> None:
    """Changes these values of the release, and waits until its agents run with them."""
    helm("upgrade", RELEASE, CHART, "--reuse-values", values=values)
    rolled_out(kube)


def rollback(kube: Kube) -> None:
    """The release as it was before the last change."""
    helm("rollback", RELEASE)
    rolled_out(kube)


def rolled_out(kube: Kube) -> None:
    """Waits until every agent is of the release's last revision, and Ready."""
    kube.inside(NAMESPACE).run("rollout", "status", "daemonset/wirespeed", "--timeout=600s", timeout=620)


def make_vfs(node: Remote) -> None:
    """Makes a node's VFs as its administrator does, now and at each boot."""
    policy = "/etc/wirespeed/vf.d/vfs.yaml"
    node.run(
        f"mkdir -p {Path(policy).parent} && cat > {policy}", given=(REPO / "examples/node/vfs.yaml").read_bytes()
    )
    node.run(f"wirespeed vf apply --yes {policy}", timeout=300)


def vfs_offered(kube: Kube, nodes: Iterable[str]) -> None:
    """Waits until these nodes offer their VFs, as examples/node makes them."""
    wanted = {"intel.com/left_kernel": "4", "intel.com/left_dpdk": "2", "intel.com/right_dpdk": "2"}

    def offered(name: str) -> bool:
        there = kube.get("node", name)["status"]["allocatable"]
        return all(there.get(resource) == number for resource, number in wanted.items())

    for name in nodes:
        kube.until(f"{name} offers its VFs", lambda name=name: offered(name))  # type: ignore[misc]
