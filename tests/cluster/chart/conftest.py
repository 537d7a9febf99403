"""What the chart's tests use: helm, and kubectl with an API server.

HELM and KUBECTL name the programs (default: those of PATH), KUBECONFIG the cluster. Where one is missing, a test
fails and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.manifests import KUBERNETES
from wirespeed.kube import kubeyaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "chart"
PATIENCE = 60.0  # seconds after which something that a test waits for will not come

Object = dict[str, Any]


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

    def objects(self, *arguments: str, release: str = "wirespeed", namespace: str = "kube-system") -> list[Object]:
        """The objects of `helm template` with these arguments, which must succeed."""
        version = f"--kube-version={KUBERNETES}"
        run = self.run("template", release, str(CHART), f"--namespace={namespace}", version, *arguments)
        assert run.returncode == 0, run.stderr
        return [each for each in kubeyaml.load_all(run.stdout) if each]

    def refused(self, *arguments: str, namespace: str = "kube-system") -> str:
        """What `helm template` says, which must fail."""
        run = self.run("template", "wirespeed", str(CHART), f"--namespace={namespace}", *arguments)
        assert run.returncode != 0, run.stdout
        return run.stderr


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(_program("HELM", "helm"))


@dataclass(frozen=True)
class Kubectl:
    program: str
    kubeconfig: str
    token: str = ""

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        who = ["--kubeconfig", self.kubeconfig, *(["--token", self.token] if self.token else [])]
        return subprocess.run(
            [self.program, *who, *arguments], input=given, capture_output=True, text=True, check=False
        )

    def __call__(self, *arguments: str, given: str = "") -> str:
        """Its output; it must succeed."""
        run = self.run(*arguments, given=given)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def refused(self, *arguments: str, given: str = "") -> str:
        """What it says, for it must fail."""
        run = self.run(*arguments, given=given)
        assert run.returncode != 0, run.stdout
        return run.stderr

    def get(self, *arguments: str) -> Object:
        found: Object = json.loads(self("get", "-o", "json", *arguments))
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self("apply", "--server-side", "-f", "-", given=as_list(objects))

    def try_out(self, *objects: Mapping[str, Any]) -> None:
        """Have the API server check the objects, as strictly as it can, without making them."""
        dry = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
        self("apply", *dry, "-f", "-", given=as_list(objects))


def as_list(objects: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """As the cluster's administrator."""
    kubeconfig = os.environ.get("KUBECONFIG", "")
    if not kubeconfig or not Path(kubeconfig).is_file():
        pytest.fail(
            f"KUBECONFIG: expected the file of a cluster's administrator, got {kubeconfig!r}", pytrace=False
        )
    made = Kubectl(_program("KUBECTL", "kubectl"), kubeconfig)
    answer = made.run("version", "-o", "json")
    if answer.returncode:
        pytest.fail(f"KUBECONFIG {kubeconfig}: the API server does not answer: {answer.stderr}", pytrace=False)
    return made


@contextmanager
def own_namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace that is there for as long as the body runs, for privileged pods."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of the test's own, for privileged pods."""
    with own_namespace(kubectl) as name:
        yield name


def kubeconfig(kubectl: Kubectl, token: str, folder: Path) -> str:
    """The path of a kubeconfig with that token; without one the administrator's."""
    if not token:
        return kubectl.kubeconfig
    config = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    config["users"] = [{"name": "agent", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "agent"
    path = folder / f"kubeconfig{len(list(folder.iterdir()))}"
    path.write_text(json.dumps(config))
    return str(path)
