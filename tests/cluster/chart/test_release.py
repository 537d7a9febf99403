"""A release on real nodes, from `helm install` to `helm uninstall`.

CHART_VALUES names a values file for this cluster, with the image and the directories of its nodes. The test's pods
use the reference plugins bridge and host-local. No other pods may be attached during the test.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.control import is_ready
from tests.cluster.chart.conftest import CHART, Helm
from tests.cluster.kube import Kube, Object
from wirespeed.kube import kubeyaml

RELEASE = "wirespeed"
LONG = 300.0  # seconds, for operations on emulated nodes that pull no image
STATUS = "k8s.v1.cni.cncf.io/network-status"


@dataclass(frozen=True)
class Release:
    """The release in its namespace, and pods that inspect the nodes."""

    helm: Helm
    kubectl: Kube
    namespace: str
    values: Path
    bin_dir: str
    conf_dir: str

    def __call__(self, command: str, *arguments: str, fails: bool = False) -> str:
        """Return the output of `helm <command>`."""
        given = ["--namespace", self.namespace, f"--timeout={LONG:.0f}s", *arguments]
        chart = [str(CHART), f"--values={self.values}"] if command in {"install", "upgrade"} else []
        run = self.helm.run(command, RELEASE, *chart, *given)
        assert bool(run.returncode) is fails, run.stdout + run.stderr
        if command != "uninstall":  # helm's --wait tolerates maxUnavailable missing pods
            self.daemonset_wait(RELEASE)
        return run.stdout + run.stderr

    def agents(self) -> dict[str, str]:
        """The UIDs of the agents' pods that are ready, by node."""
        label = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=agent"
        pods = self.kubectl.get("-n", self.namespace, "pods", "-l", label)["items"]
        return {
            pod["spec"]["nodeName"]: pod["metadata"]["uid"]
            for pod in pods
            if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
        }

    def on_nodes(self) -> dict[str, list[str]]:
        """The file names in the runtime's two CNI directories, by node."""
        code = "import os, sys; print([n for d in sys.argv[1:] for n in sorted(os.listdir('/host' + d))])"
        pods = self.kubectl.get("-n", self.namespace, "pods", "-l", "app=look")["items"]
        return {
            pod["spec"]["nodeName"]: _names(
                self.kubectl.run(
                    *("-n", self.namespace, "exec", pod["metadata"]["name"], "--"),
                    *("python3", "-c", code, self.bin_dir, self.conf_dir),
                )
            )
            for pod in pods
        }

    def wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < until, self.kubectl.run(
                "-n", self.namespace, "get", "pods,ds,jobs", "-o", "wide"
            )
            time.sleep(0.5)

    def daemonset_wait(self, name: str) -> None:
        self.kubectl.run(
            *("-n", self.namespace, "rollout", "status", f"daemonset/{name}", f"--timeout={LONG:.0f}s"),
            timeout=LONG + 20,
        )

    def start(self, name: str) -> Object:
        """Start a pod with a network, and return it when it is Ready."""
        self.kubectl.apply(_pod(name, self.namespace, self._image()))
        self.kubectl.run(
            *("-n", self.namespace, "wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={LONG:.0f}s"),
            timeout=LONG + 20,
        )
        return self.kubectl.get("-n", self.namespace, "pod", name)

    def end(self, *names: str) -> None:
        self.kubectl.run("-n", self.namespace, "delete", "pod", *names, f"--timeout={LONG:.0f}s", timeout=LONG + 20)

    def _image(self) -> str:
        objects = self.helm.objects(f"--values={self.values}")
        return next(
            str(each["spec"]["template"]["spec"]["containers"][0]["image"])
            for each in objects
            if each["kind"] == "DaemonSet"
        )

    def look(self) -> None:
        """Start the pods that inspect the nodes."""
        pod = _pod("look", self.namespace, self._image())
        spec = pod["spec"]
        spec["hostNetwork"] = True
        spec["tolerations"] = [{"operator": "Exists"}]
        spec["volumes"] = [{"name": "host", "hostPath": {"path": "/"}}]
        spec["containers"][0]["volumeMounts"] = [{"name": "host", "mountPath": "/host", "readOnly": True}]
        labels = {"app": "look"}
        self.kubectl.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": "look", "namespace": self.namespace},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            }
        )
        self.daemonset_wait("look")


def _names(printed: str) -> list[str]:
    return [str(name) for name in json.loads(printed.replace("'", '"'))]


def _pod(name: str, namespace: str, image: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"k8s.v1.cni.cncf.io/networks": "second"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "c", "image": image, "command": ["python3", "-c", "import signal; signal.pause()"]}
            ],
        },
    }


@pytest.fixture
def release(helm: Helm, kubectl: Kube, namespace: str) -> Iterator[Release]:
    named = os.environ.get("CHART_VALUES", "")
    if not Path(named).is_file():
        pytest.fail(f"CHART_VALUES: expected a values file for this cluster, got {named!r}", pytrace=False)
    node = (kubeyaml.load(Path(named).read_text()) or {}).get("node") or {}
    made = Release(
        helm,
        kubectl,
        namespace,
        Path(named),
        node.get("cniBinDir", "/opt/cni/bin"),
        node.get("cniConfDir", "/etc/cni/net.d"),
    )
    made.look()
    yield made
    for each in kubectl.get("-n", namespace, "pods")["items"]:
        if each["metadata"]["name"] in {"one", "two", "three"}:
            made.end(each["metadata"]["name"])
    if made.helm.run("status", RELEASE, "-n", namespace).returncode == 0:
        made("uninstall")


def test_release_comes_changes_and_goes_and_the_nodes_are_as_they_were(release: Release) -> None:
    kubectl, namespace = release.kubectl, release.namespace
    before = release.on_nodes()
    release("install")
    first = release.agents()
    assert first.keys() == before.keys()
    for node, names in release.on_nodes().items():
        assert set(names) - set(before[node]) == {
            *("wirespeed", "wirespeed-sriov", "wirespeed-vhost", "00-wirespeed.conflist")
        }

    ipam = {"type": "host-local", "subnet": "10.97.0.0/24"}
    config = json.dumps({"cniVersion": "1.0.0", "type": "bridge", "bridge": "chart0", "ipam": ipam})
    kubectl.apply(
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "second", "namespace": namespace},
            "spec": {"config": config},
        }
    )
    one = release.start("one")
    assert [each["interface"] for each in json.loads(one["metadata"]["annotations"][STATUS])][1:] == ["net1"]

    release("upgrade", "--set=agent.workers=16")
    second = release.agents()
    assert second.keys() == first.keys()
    assert not set(second.values()) & set(first.values())
    release.start("two")
    release("upgrade", "--set=agent.workers=16", "--set-json=pools=[]")
    assert release.agents() == second

    release("rollback", "1")
    assert not set(release.agents().values()) & set(second.values())
    release.start("three")

    said = release("uninstall", fails=True)
    assert "containers were attached by wirespeed" in said, said
    release.wait(lambda: release.agents().keys() == first.keys())
    release.end("one", "two", "three")

    release("uninstall")
    assert release.on_nodes() == before
    left = kubectl.run(
        "-n",
        namespace,
        "get",
        "-o",
        "name",
        "ds,jobs,roles,rolebindings,cm,sa",
        "-l",
        f"app.kubernetes.io/instance={RELEASE}",
    )
    assert left == ""
    assert kubectl.run("get", "crd", "network-attachment-definitions.k8s.cni.cncf.io", "-o", "name")
    assert not kubectl.run(
        "get", "clusterrole,validatingadmissionpolicy", "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE}"
    )
