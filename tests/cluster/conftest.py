"""A cluster with wirespeed in it. `make test-cluster` starts the cluster and runs these tests."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube
from tests.cluster.state import own_namespace
from tests.cluster.workload import apply_networks


@pytest.fixture(scope="session")
def described() -> dict[str, object]:
    """The description of the cluster, written by the program that started it."""
    path = os.environ.get("WIRESPEED_CLUSTER")
    if path is None:
        pytest.exit("these tests run in a cluster that is started for them: make test-cluster", returncode=2)
    return json.loads(Path(path).read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def nodes(described: dict[str, object]) -> list[Remote]:
    """The nodes, to run commands on."""
    return [Remote(Path(str(described["folder"])), node["name"]) for node in described["nodes"]]  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def vms(described: dict[str, object], nodes: list[Remote]) -> list[Remote]:
    """The nodes that are lab VMs: they have VFs and can be reset."""
    return [node for node, told in zip(nodes, described["nodes"], strict=True) if told["vm"]]  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def administrator(described: dict[str, object]) -> Kube:
    """kubectl as the cluster's administrator."""
    return Kube(os.environ["KUBECTL"])


@pytest.fixture(scope="session")
def prepared(administrator: Kube, vms: list[Remote]) -> Kube:
    """The VMs have the VFs that the examples need."""
    for node in vms:
        release.make_vfs(node)
    return administrator


@pytest.fixture(scope="session")
def wirespeed(prepared: Kube, vms: list[Remote]) -> Kube:
    """wirespeed is installed, its agents are Ready and their devices are offered."""
    release.install(presets=["openvswitch"] if vms else [])
    release.agents_ready(prepared)
    release.vfs_offered(prepared, [node.name for node in vms])
    return prepared


@pytest.fixture
def kube(wirespeed: Kube, nodes: list[Remote]) -> Iterator[Kube]:
    """A namespace for one test. After the test, the nodes must be in their earlier state."""
    with own_namespace(wirespeed, nodes, f"test-{uuid.uuid4().hex[:8]}") as inside:
        yield inside


@pytest.fixture
def networks(kube: Kube) -> Kube:
    """The test's namespace with the networks of `tests.cluster.workload`."""
    apply_networks(kube)
    return kube
