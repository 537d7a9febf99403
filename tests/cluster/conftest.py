"""A cluster with wirespeed in it; `make test-cluster` starts it, and in it these tests."""

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
    """What the cluster says of itself."""
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
    """Those of the nodes that are lab VMs: they have VFs, and can be reset."""
    return [node for node, told in zip(nodes, described["nodes"], strict=True) if told["vm"]]  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def administrator(described: dict[str, object]) -> Kube:
    """kubectl with all rights."""
    return Kube(os.environ["KUBECTL"])


@pytest.fixture(scope="session")
def prepared(administrator: Kube, vms: list[Remote]) -> Kube:
    """VMs with VFs, as the examples need them."""
    for node in vms:
        release.make_vfs(node)
    return administrator


@pytest.fixture(scope="session")
def wirespeed(prepared: Kube, vms: list[Remote]) -> Kube:
    """wirespeed installed, its agents Ready and their devices offered."""
    release.install(presets=["openvswitch"] if vms else [])
    release.agents_ready(prepared)
    release.vfs_offered(prepared, [node.name for node in vms])
    return prepared


@pytest.fixture
def kube(wirespeed: Kube, nodes: list[Remote]) -> Iterator[Kube]:
    """A namespace of the test's own; after the test, nodes are as they were before it."""
    with own_namespace(wirespeed, nodes, f"test-{uuid.uuid4().hex[:8]}") as inside:
        yield inside


@pytest.fixture
def networks(kube: Kube) -> Kube:
    """The test's namespace with the networks of `tests.cluster.workload`."""
    apply_networks(kube)
    return kube
