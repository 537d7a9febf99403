"""Checks of the cluster: the API server, the agent's permissions, and the resource of networks."""

from __future__ import annotations

import os
from contextlib import closing
from typing import NamedTuple

from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check
from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import UnavailableError
from wirespeed.node import Node

_SUBJECT = Subject.CLUSTER
_NETWORKS = ("k8s.cni.cncf.io", "network-attachment-definitions")
_PATIENCE = 2.0  # seconds for the API server to answer
# What the agent asks for: group, resource, subresource, verbs; as in the ClusterRole of the chart.
NEEDED = (
    ("", "pods", "", ("get", "list", "watch")),
    ("", "pods", "status", ("patch",)),
    ("", "events", "", ("create", "patch")),
    (*_NETWORKS, "", ("get", "list", "watch")),
)


class Permissions(NamedTuple):
    """What the API server answers: what it forbids to this account, and whether it serves networks."""

    forbidden: tuple[str, ...]
    networks: bool


def read_permissions(node: Node) -> Permissions | None:
    """Ask the API server; None if the agent reads manifests. Raises Error, also if no cluster is configured."""
    where = node.config.cluster
    if where.manifests:
        return None
    if not where.kubeconfig and "KUBERNETES_SERVICE_HOST" not in os.environ:
        what = "no kubeconfig is configured, and this process is not in a pod"
        raise Error(Kind.UNAVAILABLE, what, hint="run it in the agent's container, or set cluster.kubeconfig")
    from wirespeed.kube.apiserver import ApiCluster  # noqa: PLC0415 — the client takes 0.2 s to import
    from wirespeed.kube.retry import RetryPolicy  # noqa: PLC0415
    from wirespeed.kube.reviews import Right  # noqa: PLC0415

    policy = RetryPolicy.of(_PATIENCE)
    with closing(ApiCluster(where.kubeconfig, watch=False, policy=policy)) as cluster:
        wanted = [Right(verb, name, group, sub) for group, name, sub, verbs in NEEDED for verb in verbs]
        forbidden = tuple(str(right) for right in wanted if not cluster.may(right))
        return Permissions(forbidden, cluster.serves_networks())


@check(
    "api-server",
    _SUBJECT,
    expected="an API server that answers",
    otherwise=Severity.ERROR,
    why="the agent reads pods and networks there; without it, an ADD waits until its deadline",
    source="docs/configuration.md, keys cluster.*",
    fix="check the network between the node and the API server, and `cluster.kubeconfig` of the agent's "
    "configuration",
)
def api_server(facts: Facts) -> Answer:
    try:
        return Holds("it answers") if facts.permissions() is not None else None
    except UnavailableError as error:
        return Fails(error.msg)


def _answered(facts: Facts) -> Permissions | None:
    """Return the answer; None if there is none: the check api-server tells why."""
    try:
        return facts.permissions()
    except Error:
        return None


@check(
    "permissions",
    _SUBJECT,
    expected="the permissions of the agent's ClusterRole",
    otherwise=Severity.ERROR,
    why="a request that is forbidden makes the ADD fail, or leaves out network-status and events",
    source="Kubernetes: Using RBAC Authorization; deploy/rbac.yaml",
    fix="`kubectl apply -f deploy/rbac.yaml`, or `rbac.create: true` of the chart",
)
def permissions(facts: Facts) -> Answer:
    if (found := _answered(facts)) is None:
        return None
    return Fails(f"forbidden: {', '.join(found.forbidden)}") if found.forbidden else Holds("all are granted")


@check(
    "networks-resource",
    _SUBJECT,
    expected="the resource NetworkAttachmentDefinition in the cluster",
    otherwise=Severity.ERROR,
    why="the networks of pods are objects of this kind",
    source="Network Plumbing Working Group: NetworkAttachmentDefinition; deploy/crd.yaml",
    fix="`kubectl apply -f deploy/crd.yaml`",
)
def networks_resource(facts: Facts) -> Answer:
    if (found := _answered(facts)) is None:
        return None
    return Holds("the cluster has it") if found.networks else Fails("the cluster does not have it")
