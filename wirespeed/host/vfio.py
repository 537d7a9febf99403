"""Who uses VFs in user space, over vfio and vhost-vdpa."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def vfio_users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Which process has which vfio group open: {"42": "process 4711 (dpdk-testpmd)"}."""
    groups = ((node.removeprefix("noiommu-"), process) for node, process in _opened("/dev/vfio/", proc))
    return {group: process for group, process in groups if group.isdigit()}


def vdpa_users(proc: Path = Path("/proc")) -> dict[str, str]:
    """Which process has which node open: {"/dev/vhost-vdpa-0": "process 4711 (dpdk-testpmd)"}."""
    return {f"/dev/vhost-vdpa-{number}": process for number, process in _opened("/dev/vhost-vdpa-", proc)}


def _opened(prefix: str, proc: Path) -> Iterator[tuple[str, str]]:
    """The nodes that processes have open, without the prefix of their paths, and the process of each."""
    for folder in proc.glob("[0-9]*"):
        try:
            opened = [os.readlink(entry) for entry in (folder / "fd").iterdir()]
            command = (folder / "comm").read_text().strip()
        except OSError:  # it ended
            continue
        for target in opened:
            if target.startswith(prefix):
                yield target.removeprefix(prefix), f"process {folder.name} ({command})"
