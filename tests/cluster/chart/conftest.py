"""Fixtures of the chart's tests: helm, and kubectl with an API server.

HELM and KUBECTL name the programs (default: looked up in PATH); KUBECONFIG names the cluster. If one is missing,
the test fails with a message.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.manifests import KUBERNETES
from tests.cluster.kube import Kube, Object
from wirespeed.kube import kubeyaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "chart"


def _program(variable: str, name: str) -> str:
    named = os.environ.get(variable) or name
    found = shutil.which(named)
    if found is None:
        pytest.fail(f"{named}: expected the program {name}, named by {variable} or in PATH", pytrace=False)
    return found


@dataclass(frozen=True)
class Helm:
    program: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)

    def objects(
        self, *arguments: str, release: str = "wirespeed", namespace: str = "kube-system", chart: Path = CHART
    ) -> list[Object]:
        """The objects of `helm template` with these arguments, which must succeed."""
        version = f"--kube-version={KUBERNETES}"
        run = self.run("template", release, str(chart), f"--namespace={namespace}", version, *arguments)
        assert run.returncode == 0, run.stderr
        return [each for each in kubeyaml.load_all(run.stdout) if each]

    def refused(self, *arguments: str, namespace: str = "kube-system") -> str:
        """Return the error output of `helm template`, which must fail."""
        run = self.run("template", "wirespeed", str(CHART), f"--namespace={namespace}", *arguments)
        assert run.returncode != 0, run.stdout
        return run.stderr


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(_program("HELM", "helm"))


@pytest.fixture(scope="session")
def kubectl() -> Kube:
    """kubectl as the cluster's administrator."""
    named = os.environ.get("KUBECONFIG", "")
    if not named or not Path(named).is_file():
        pytest.fail(f"KUBECONFIG: expected the file of a cluster's administrator, got {named!r}", pytrace=False)
    return Kube(_program("KUBECTL", "kubectl"), namespace="")


@contextmanager
def own_namespace(kubectl: Kube) -> Iterator[str]:
    """Create a namespace that allows privileged pods, and delete it after the body."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(kubectl: Kube) -> Iterator[str]:
    """A namespace for one test, which allows privileged pods."""
    with own_namespace(kubectl) as name:
        yield name
