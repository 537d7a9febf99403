"""Is this node fit for pods with line-rate interfaces, and is this pod fast? What is, what should be, and why."""

from __future__ import annotations

from pathlib import Path

from wirespeed.doctor import cluster, cni, cpus, kernel, kubelet, memory, nics, pcie, pods, runtime, switches  # noqa: F401 — they declare checks
from wirespeed.doctor.facts import Facts, Sources
from wirespeed.doctor.files import Files
from wirespeed.doctor.finding import CHECKS, Check, Finding, Severity, Subject
from wirespeed.doctor.podview import PodView, find
from wirespeed.kernel.netlink import dcb
from wirespeed.kernel.netlink.rdma import Rdma
from wirespeed.kube import cri
from wirespeed.node import Node

__all__ = ["CHECKS", "Check", "Finding", "Severity", "Subject", "applicable", "examine", "judge"]

_PATIENCE = 2.0  # seconds for a runtime to answer


def examine(node: Node, pod: str | None = None) -> list[Finding]:
    """Check the node, and a pod on it, "[namespace]/name"; return what holds too, the checks in their order.

    Nothing is changed. Raises Error(NOT_ATTACHED) if the pod is not on this node.
    """
    files = Files.of_node(node.config.sysfs)
    view = find(node, pod, files) if pod else None
    return judge(facts_of(node, files, view))


def judge(facts: Facts) -> list[Finding]:
    """Return the findings of all checks that apply to these facts."""
    return [finding for each in applicable(pod=facts.pod is not None) for finding in each.findings(facts)]


def applicable(*, pod: bool) -> list[Check]:
    """Return the checks of a node, and with `pod` also those of a pod, in the order of the subjects."""
    subjects = [subject for subject in Subject if pod or subject is not Subject.POD]
    return [each for subject in subjects for each in CHECKS.values() if each.subject is subject]


def read_kubelet(node: Node) -> None:
    """Raise Error(TRY_AGAIN) if the kubelet does not answer which devices a pod has."""
    node.pod_resources.check()


def facts_of(node: Node, files: Files, view: PodView | None) -> Facts:
    """Return the facts of a node, whose sources are the real ones."""

    def rdma_exclusive() -> bool:
        with Rdma() as host:
            return host.exclusive()

    sources = Sources(
        priorities=dcb.priorities,
        rdma_exclusive=rdma_exclusive,
        ovs=lambda: switches.read_ovs(files.remote(node.config.vhost.ovsdb)),
        runtime=lambda socket: cri.version(Path(files.place(socket)), timeout=_PATIENCE),
        kubelet=lambda: read_kubelet(node),
        permissions=lambda: cluster.read_permissions(node),
    )
    return Facts(node.config, files, sources, view)
