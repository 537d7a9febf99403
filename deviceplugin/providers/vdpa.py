"""Provider for devices of a selector with vdpaType "vhost": the node of their vdpa device."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.providers.part import Asked, Part, same
from wirespeed.devices.vdpa import vhost_node


def provide(asked: Asked) -> Part | None:
    """Return the node; a vdpa device of type virtio is a netdev and has none."""
    if asked.selectors.vdpa_type != "vhost":
        return None
    node = vhost_node(asked.sysfs, asked.device.vdpa)
    if not node:
        raise CniError(
            Code.DEVICE, f"device {asked.device.address}: vdpa device {asked.device.vdpa} without a vhost-vdpa node"
        )
    return Part("vdpa", {"mount": node}, (same(node),))
