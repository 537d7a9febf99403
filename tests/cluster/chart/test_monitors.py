"""An API server with the Prometheus Operator's definitions accepts the chart's monitors.

WIRESPEED_CLUSTER, which `make test-cluster` sets, names a file that says where the definitions are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.chart.conftest import Helm
from tests.cluster.kube import Kube


@pytest.fixture
def definitions(kubectl: Kube) -> Iterator[None]:
    """The operator's definitions of ServiceMonitor and PodMonitor, as its module has them."""
    described = os.environ.get("WIRESPEED_CLUSTER")
    if described is None:
        pytest.fail("needs the cluster of `make test-cluster`", pytrace=False)
    manifests = Path(json.loads(Path(described).read_text())["manifests"])
    files = [f"--filename={file}" for file in sorted(manifests.glob("monitoring.coreos.com_*.yaml"))]
    assert len(files) == 2
    # The annotation of a client-side apply has no room for them.
    kubectl.run("apply", "--server-side", *files)
    try:
        kubectl.run("wait", "--for=condition=Established", "--timeout=60s", *files)
        yield
    finally:
        kubectl.run("delete", *files)


@pytest.mark.usefixtures("definitions")
def test_api_server_takes_the_monitors(helm: Helm, kubectl: Kube, namespace: str) -> None:
    kinds = ("serviceMonitor", "podMonitor")
    asked = ["--set=metrics.enabled=true", *(f"--set=metrics.{kind}.enabled=true" for kind in kinds)]
    objects = helm.objects(*asked, "--set=crds.install=false", namespace=namespace)
    assert {"ServiceMonitor", "PodMonitor"} <= {each["kind"] for each in objects}
    kubectl.try_out(*objects)
