"""The SR-IOV CNI: gives one VF or scalable function to a pod, and restores it exactly afterwards."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """Create the plugin for this node."""
    from wirespeed.plugins.sriov.sriov import Sriov  # noqa: PLC0415 — loaded when the node first needs it

    return Sriov(node)
