"""The vhost-user CNI: one vhost-user or memif port into one pod, on OVS-DPDK, on VPP, or between two pods."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """The plugin for this node."""
    from wirespeed.plugins.vhost.vhost import Vhost  # noqa: PLC0415 — loaded when the node first needs it

    return Vhost(node)
