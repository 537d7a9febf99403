"""vdpa devices in sysfs."""

from __future__ import annotations

import os


def vhost_node(sysfs: str, name: str) -> str:
    """The node that vhost_vdpa has made for the vdpa device, "/dev/vhost-vdpa-0"; "" without one."""
    try:
        entries = os.listdir(f"{sysfs}/bus/vdpa/devices/{name}") if name else []
    except OSError:
        return ""
    return next((f"/dev/{entry}" for entry in sorted(entries) if entry.startswith("vhost-vdpa-")), "")
