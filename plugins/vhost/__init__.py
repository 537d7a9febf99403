"""The vhost-user CNI: gives a pod one vhost-user or memif port, on OVS-DPDK, on VPP, or directly to another pod."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """Create the plugin for this node."""
    from wirespeed.plugins.vhost.vhost import Vhost  # noqa: PLC0415 — loaded when the node first needs it

    return Vhost(node)
