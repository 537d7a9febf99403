"""Offers the node's network devices to the kubelet in pools, and hands them out."""

from wirespeed.deviceplugin.plugin import run

__all__ = ["run"]
