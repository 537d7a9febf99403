"""The device plugin: offers the node's network devices to the kubelet in pools, and allocates them."""

from wirespeed.deviceplugin.plugin import run

__all__ = ["run"]
