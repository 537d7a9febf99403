"""Finds networks of the cluster from which pods request capabilities that none of the network's plugins has."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing

from wirespeed.cni import versions
from wirespeed.cni.chain import Chain, load_network
from wirespeed.errors import Error
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import Cluster, UnavailableError
from wirespeed.node import ALIASES, Node, NodeConfig
from wirespeed.plugins.meta import config as meta_config
from wirespeed.plugins.meta import networks, selection
from wirespeed.plugins.meta.checks import has_capability, needs_ip_argument
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.meta.resolve import Pod

_SHOWN = 3  # pods that a message names; the others are only counted

Demands = dict[tuple[str, str], list[str]]  # (network, capability) -> the pods that request it


def notes(config: NodeConfig) -> Iterator[str]:
    """Yield notes for the user about the cluster's networks, before an agent serves them."""
    if config.cluster.manifests:
        return  # there is no API server
    # Without autoconf the runtime keeps Multus' own configuration.
    settings = {"type": "multus"} if config.autoconf is None else config.autoconf.meta
    meta = meta_config.load({"name": "cluster", "clusterNetwork": "primary", **settings})
    try:
        with closing(ApiCluster(config.cluster.kubeconfig, watch=False)) as cluster:
            pods = [
                Pod(namespace=each["metadata"]["namespace"], name=each["metadata"]["name"], found=each)
                for each in cluster.pods()
            ]
            found = demands(pods, cluster, meta)
    except Error as error:
        yield f"pods' requests were not compared with their networks' capabilities: {error.msg}"
        return
    for (label, capability), asking in sorted(found.items()):
        rest = f" and {len(asking) - _SHOWN} more" if len(asking) > _SHOWN else ""
        effect = _effect(capability, lenient=meta.lenient_capabilities)
        yield (
            f'network {label}: pods ask for "{capability}", and no plugin of it has that capability: {effect} '
            f"({', '.join(asking[:_SHOWN])}{rest})"
        )


def _effect(capability: str, *, lenient: Collection[str]) -> str:
    if capability not in lenient:
        return f'they are refused, until autoconf.meta.lenientCapabilities has "{capability}"'
    passed = "it is passed in CNI_ARGS" if capability in {"ips", "mac"} else "it has no effect"
    return f"{passed}, by lenientCapabilities"


def demands(pods: Iterable[Pod], cluster: Cluster, meta: MetaConfig) -> Demands:
    """Return the capabilities that pods request from networks that lack them.

    Pods whose annotation and networks whose definition cannot be read are skipped. Raises UnavailableError.
    """
    lacking: dict[str, frozenset[str]] = {}
    found: dict[tuple[str, str], dict[str, None]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="wirespeed-install-") as folder,
        closing(Node(NodeConfig(state=f"{folder}/state.db"), once=True)) as node,
    ):
        for pod in pods:
            for asked in _selections(pod, meta.multus_namespace):
                if asked.label not in lacking:
                    lacking[asked.label] = _lacking(Chain(node.plugins), cluster, asked, meta.conf_dir)
                for capability in asked.runtime_config().keys() & lacking[asked.label]:
                    found.setdefault((asked.label, capability), {})[pod.label] = None
    return {what: sorted(asking) for what, asking in found.items()}


def _selections(pod: Pod, multus_namespace: str) -> list[selection.Selection]:
    annotations = ((selection.DEFAULT_NETWORK, multus_namespace), (selection.NETWORKS, pod.namespace))
    try:
        return [
            asked
            for key, namespace in annotations
            for asked in selection.parse(pod.annotation(key), namespace=namespace, annotation=key)
        ]
    except Error:
        return []


def _lacking(chain: Chain, cluster: Cluster, asked: selection.Selection, conf_dir: str) -> frozenset[str]:
    """Return the capabilities that the network lacks; not "ips" if its IPAM reads the address from CNI_ARGS."""
    try:
        source = networks.definition(cluster, asked.namespace, asked.name, conf_dir=conf_dir)
        network = load_network(source.raw, version=versions.LATEST)
    except UnavailableError:
        raise
    except Error:
        return frozenset()
    available = {key for key in meta_config.CAPABILITIES if has_capability(chain, network, key)}
    if needs_ip_argument(chain, network):
        available.add("ips")
    if any(ALIASES.get(kind, kind) == "sriov" for kind in network.kinds):
        available.add("infinibandGUID")  # a VF of an InfiniBand PF has it; which VF it gets is not known yet
    return frozenset(meta_config.CAPABILITIES) - available
