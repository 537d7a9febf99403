"""The meta-plugin: selects a pod's networks, attaches them in order and returns the master's result."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """Create the plugin for this node."""
    from wirespeed.plugins.meta.meta import Meta  # noqa: PLC0415 — loaded when the node first needs it

    return Meta(node)
