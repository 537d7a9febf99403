"""The meta-plugin: which networks a pod gets, in what order, and what the runtime is told."""

from __future__ import annotations

from wirespeed.cni.plugin import Plugin
from wirespeed.node import Node


def create(node: Node) -> Plugin:
    """The plugin for this node."""
    from wirespeed.plugins.meta.meta import Meta  # noqa: PLC0415 — loaded when the node first needs it

    return Meta(node)
