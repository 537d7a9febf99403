"""What is cached of API objects, and how waits are spread."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wirespeed.kube.apiserver import trim_network, trim_pod
from wirespeed.kube.watch import jitter

LAST = "kubectl.kubernetes.io/last-applied-configuration"

POD: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "default",
        "uid": "u1",
        "resourceVersion": "7",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": "web"},
        "annotations": {"k8s.v1.cni.cncf.io/networks": "net", LAST: "{}"},
        "managedFields": [{"manager": "kubelet"}],
        "ownerReferences": [{"kind": "ReplicaSet"}],
    },
    "spec": {
        "nodeName": "n1",
        "hostNetwork": False,
        "resourceClaims": [{"name": "vf"}],
        "volumes": [{"name": "data"}],
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [{"name": "A", "value": "b"}],
                "resources": {"limits": {"intel.com/vf": "1"}},
            }
        ],
    },
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "Ready"}],
        "resourceClaimStatuses": [{"name": "vf", "resourceClaimName": "vf-1"}],
        "extendedResourceClaimStatus": {"resourceClaimName": "vf-2"},
    },
}


def test_of_a_pod_is_kept_what_networking_reads() -> None:
    assert trim_pod(POD) == {
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "u1",
            "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web"},
            "annotations": {"k8s.v1.cni.cncf.io/networks": "net"},
        },
        "spec": {
            "nodeName": "n1",
            "hostNetwork": False,
            "resourceClaims": [{"name": "vf"}],
            "containers": [{"name": "c", "resources": {"limits": {"intel.com/vf": "1"}}}],
        },
        "status": {
            "phase": "Pending",
            "resourceClaimStatuses": [{"name": "vf", "resourceClaimName": "vf-1"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "vf-2"},
        },
    }
    assert LAST in POD["metadata"]["annotations"]  # the argument is not modified


def test_of_a_pods_volumes_the_one_for_sockets_is_kept() -> None:
    sockets = {"name": "shared-dir", "emptyDir": {}}
    mount = {"name": "shared-dir", "mountPath": "/sockets"}
    pod = trim_pod(
        {
            "metadata": {"name": "web"},
            "spec": {
                "volumes": [{"name": "data", "emptyDir": {}}, sockets],
                "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}, mount]}],
            },
        }
    )
    assert pod["spec"] == {"volumes": [sockets], "containers": [{"name": "c", "volumeMounts": [mount]}]}


def test_a_pod_may_lack_almost_everything() -> None:
    for pod in (
        {"metadata": {"name": "web"}},
        {"metadata": {"name": "web", "annotations": None}, "spec": None, "status": None},
        {"metadata": {"name": "web"}, "spec": {"containers": None}},
    ):
        assert trim_pod(pod) == {
            "metadata": {"name": "web", "annotations": {}},
            "spec": {"containers": []},
            "status": {},
        }


def test_of_a_network_are_kept_names_annotations_and_spec() -> None:
    resource = {"k8s.v1.cni.cncf.io/resourceName": "intel.com/vf"}
    network = {
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net", "namespace": "default", "annotations": {**resource, LAST: "{}"}, "labels": {}},
        "spec": {"config": "{}"},
    }
    assert trim_network(network) == {
        "metadata": {"name": "net", "namespace": "default", "annotations": resource},
        "spec": {"config": "{}"},
    }
    assert trim_network({"metadata": {"name": "net"}}) == {
        "metadata": {"name": "net", "annotations": {}},
        "spec": {},
    }


@given(st.floats(0, 1e6))
def test_waits_are_spread_over_their_second_half(seconds: float) -> None:
    assert seconds * 0.5 <= jitter(seconds) <= seconds


def test_waits_are_not_all_the_same() -> None:
    assert len({jitter(1.0) for _ in range(100)}) > 50
