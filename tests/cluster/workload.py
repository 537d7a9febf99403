"""Pods that run while something fails: each with two bridge networks, and some with a VF."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster.kube import Kube, Object, network_status
from tests.cluster.manifests import bridge, nad, pod

VFS = 4  # of each VM, bound to the kernel's driver
KERNEL = {"intel.com/left_kernel": 1}


def apply_networks(kube: Kube) -> None:
    """Two bridge networks and one with the VFs of ens1, all with addresses."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]]}
    plugin = {"type": "wirespeed-sriov", "vlan": 30, "ipam": ipam}
    fast = nad("fast", plugin, resource="intel.com/left_kernel")
    kube.apply(bridge("one", "10.61.0.0/24"), bridge("two", "10.62.0.0/24"), fast)


def start_some(kube: Kube, prefix: str, nodes: Sequence[Remote], *, vf: bool = False) -> list[str]:
    """Start a pod with two bridge networks, optionally with a VF, on each node. Return their `app` labels."""
    networks = ["one", "two", "fast"] if vf else ["one", "two"]
    names = []
    for node in nodes:
        name = f"{prefix}-{node.name}"
        kube.apply(replicas(name, node, 1, networks, dict(KERNEL) if vf else {}))
        names.append(name)
    return names


def running(kube: Kube, name: str) -> list[Object]:
    """The pods of a controller, without those that the kubelet rejected and the controller replaced."""
    pods = kube.items("pods", f"--selector=app={name}")
    return [one for one in pods if one["status"].get("phase") not in {"Failed", "Succeeded"}]


def assert_attached(kube: Kube, names: list[str]) -> None:
    """Waits until these pods are Ready and have the interfaces that `start_some` requested."""

    def ready_ones(name: str) -> list[Object]:
        pods = running(kube, name)
        return pods if all(map(is_ready, pods)) else []

    for name in names:
        (ready,) = kube.until(f"the pod of {name} is Ready", lambda name=name: ready_ones(name))  # type: ignore[misc]
        wanted = ["eth0", "net1", "net2"]
        wanted += ["net3"] if ready["spec"]["containers"][0]["resources"] else []
        assert [status["interface"] for status in network_status(ready)] == wanted, name


def assert_drains(kube: Kube, node: Remote) -> None:
    """Drains the node that the namespace's pods must run on: none may be scheduled then. Uncordons it later."""
    try:
        kube.run("drain", node.name, "--ignore-daemonsets", "--force", "--delete-emptydir-data", timeout=300)
        assert not [item for item in kube.items("pods") if "nodeName" in item["spec"]]
    finally:
        kube.run("uncordon", node.name)


def replicas(
    name: str, node: Remote, number: int, networks: list[str], resources: dict[str, str | int]
) -> dict[str, object]:
    """A ReplicaSet of pods, which replaces pods that the kubelet rejects.

    The kubelet rejects a pod that requests a device while the device plugin is not registered: when the kubelet has
    just started, or while the plugin is down.
    """
    template = pod(name, networks, node=node.name, resources=resources)
    template["metadata"]["labels"] = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": number,
            "selector": {"matchLabels": {"app": name}},
            "template": {key: template[key] for key in ("metadata", "spec")},
        },
    }
