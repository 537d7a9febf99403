"""The SR-IOV CNI: one VF or scalable function into one pod, and back exactly as it was."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """The plugin for this node."""
    from wirespeed.plugins.sriov.sriov import Sriov  # noqa: PLC0415 — loaded when the node first needs it

    return Sriov(node)
