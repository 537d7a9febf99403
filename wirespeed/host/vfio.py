"""Who uses VFs in user space, over vfio."""

from __future__ import annotations

import os
from pathlib import Path


def vfio_users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Which process has which vfio group open: {"42": "process 4711 (dpdk-testpmd)"}."""
    found: dict[str, str] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            opened = [os.readlink(entry) for entry in (folder / "fd").iterdir()]
            command = (folder / "comm").read_text().strip()
        except OSError:  # it ended
            continue
        for target in opened:
            name = target.removeprefix("/dev/vfio/").removeprefix("noiommu-")
            if target.startswith("/dev/vfio/") and name.isdigit():
                found[name] = f"process {folder.name} ({command})"
    return found
