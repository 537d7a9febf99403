"""The pod of `wirespeed doctor --pod`: found by the journal or by its UID, with its containers and devices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.madenode import APPLICATION, CGROUP, UID, VF, MadeNode, SharedNode
from wirespeed.doctor.files import Files
from wirespeed.doctor.podview import Container, find
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.journal import DeviceClaim

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: fw, namespace: default, uid: {uid}}}
spec: {{containers: [{{name: fw, image: x}}]}}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNode]:
    with contextlib.closing(SharedNode(tmp_path_factory.mktemp("made"))) as nodes:
        yield nodes


@pytest.fixture
def made(shared: SharedNode) -> MadeNode:
    node = shared.fresh()
    for pid in (APPLICATION, 4700, 1):
        node.write(f"/proc/{pid}/ns/net", "")
    node.process(4700, "pause", cgroup="0::" + CGROUP.replace("cri-containerd-c1", "cri-containerd-s1"))
    return node


@pytest.fixture
def node(made: MadeNode, tmp_path: Path) -> Iterator[Node]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "pod.yaml").write_text(POD.format(uid=UID))
    config = NodeConfig(
        state=str(tmp_path / "state.db"),
        attachments=str(tmp_path / "attachments"),
        kubelet=str(tmp_path / "kubelet"),
        cluster=ClusterConfig(manifests=str(manifests)),
    )
    with closing(Node(config)) as one:
        yield one


def attach(node: Node, made: MadeNode, *, name: str = "fw") -> None:
    """Write what the meta-plugin and the SR-IOV plugin write for a pod whose namespace is the application's."""
    stat = made.place(f"/proc/{APPLICATION}/ns/net").stat()
    identity = Identity(stat.st_dev, stat.st_ino, 7)
    args = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name, "K8S_POD_UID": UID}
    raw = {"name": "left", "type": "wirespeed-sriov"}
    delegate = Delegate(
        label="default/left",
        raw=raw,
        version="1.0.0",
        ifname="net1",
        args=args,
        configuration="cbr0",
        request_ifname="eth0",
    )
    node.journal.plan(planned_rows([delegate], "s1", "/run/netns/fw", identity))
    node.journal.claim(
        DeviceClaim(
            device=VF, plugin="sriov", container="s1", ifname="net1", netns="/run/netns/fw", identity=identity
        )
    )


APPLICATIONS = (Container(APPLICATION, "dpdk-testpmd", CGROUP),)


def test_attached_pod_is_found_with_its_containers_and_its_vf(node: Node, made: MadeNode) -> None:
    attach(node, made)
    found = find(node, "fw", Files.below(made.root))
    assert (found.name, found.uid, found.containers, found.devices) == ("default/fw", UID, APPLICATIONS, (VF,))


def test_pod_that_wirespeed_did_not_attach_is_found_by_its_uid(node: Node, made: MadeNode) -> None:
    found = find(node, "default/fw", Files.below(made.root))
    assert (found.uid, found.containers, found.devices) == (UID, APPLICATIONS, ())
    assert not os.path.exists(node.config.state)  # looking at a node leaves no journal there


def test_pod_without_cgroups_of_the_kubelet_is_found_by_its_network_namespace(node: Node, made: MadeNode) -> None:
    attach(node, made)
    made.write(f"/proc/{APPLICATION}/cgroup", "0::/play/fw")
    found = find(node, "fw", Files.below(made.root))
    assert found.uid == UID
    assert (APPLICATION, "/play/fw") in {(each.pid, each.cgroup) for each in found.containers}


def test_sandbox_of_a_pod_is_shown_only_if_there_is_nothing_else(node: Node, made: MadeNode) -> None:
    made.remove(f"/proc/{APPLICATION}")
    found = find(node, "fw", Files.below(made.root))
    assert [each.name for each in found.containers] == ["pause"]


def test_pod_of_cgroup_version_1_is_found_by_its_uid(node: Node, made: MadeNode) -> None:
    cgroup = f"/kubepods/pod{UID}/c1"
    made.write(f"/proc/{APPLICATION}/cgroup", f"12:pids:{cgroup}\n4:cpuset:{cgroup}\n1:name=systemd:{cgroup}")
    found = find(node, "fw", Files.below(made.root))
    assert found.containers == (Container(APPLICATION, "dpdk-testpmd", cgroup),)


def test_pod_of_another_node_is_refused(node: Node, made: MadeNode) -> None:
    with pytest.raises(Error) as caught:
        find(node, "other", Files.below(made.root))
    assert caught.value.kind is Kind.NOT_ATTACHED
    assert caught.value.msg == "pod default/other: neither the journal of this node nor the cluster has it"


def test_pod_without_a_process_here_is_refused(node: Node, made: MadeNode) -> None:
    for pid in (APPLICATION, 4700):
        made.remove(f"/proc/{pid}")
    with pytest.raises(Error, match="pod default/fw: no process of it is seen here; run this on the pod's node"):
        find(node, "fw", Files.below(made.root))


def test_pod_that_a_check_found_is_judged_like_the_made_one(node: Node, made: MadeNode) -> None:
    attach(node, made)
    made.pod = find(node, "fw", Files.below(made.root))
    [found] = made.findings("pod-exclusive-cpus")
    assert msgspec.to_builtins(found)["found"] == "CPUs 1,5"
