"""Provider for devices of a selector with isRdma: the nodes of their RDMA devices."""

from __future__ import annotations

import os

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.providers.part import Asked, Node, Part, same
from wirespeed.kernel.sysfs import attribute_text, entries

_CLASSES = ("infiniband_cm", "infiniband_mad", "infiniband_verbs")
_TOLD = ("issm", "umad", "uverbs")  # name prefixes that are keys of the info; ucm nodes are provided without one


def provide(asked: Asked) -> Part | None:
    if not asked.selectors.is_rdma:
        return None
    devices = entries(f"{asked.path}/infiniband")
    if not devices:
        raise CniError(Code.DEVICE, f"device {asked.device.address}: its RDMA device is not in this namespace")
    told: dict[str, str] = {"rdma_dev": devices[0]}
    nodes: list[Node] = []
    for device in devices:
        for node in _nodes(asked.sysfs, device):
            path = f"/dev/infiniband/{node}"
            nodes.append(same(path))
            for key in _TOLD:
                if node.startswith(key):
                    told.setdefault(key, path)
    if os.path.exists(f"{asked.sysfs}/class/misc/rdma_cm"):
        told["rdma_cm"] = "/dev/infiniband/rdma_cm"
        nodes.append(same(told["rdma_cm"]))
    return Part("rdma", told, tuple(nodes))


def _nodes(sysfs: str, device: str) -> list[str]:
    """Return the names of the character devices of an RDMA device."""
    return [
        name
        for each in _CLASSES
        for name in entries(f"{sysfs}/class/{each}")
        if attribute_text(f"{sysfs}/class/{each}/{name}/ibdev") == device
    ]
