"""Chooses the preferred devices for a container: the answer to GetPreferredAllocation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from wirespeed.devices.inventory import NetDevice
from wirespeed.errors import Error, Kind
from wirespeed.kernel.sysfs import attribute_text


def preferred(
    available: Iterable[NetDevice],
    must: Iterable[NetDevice],
    size: int,
    *,
    packed: bool = False,
    last: Collection[int] = (),
) -> list[str]:
    """Return the addresses of `size` devices including all of `must`, sorted.

    `available` includes `must`. The choice uses as few NUMA nodes as possible, and nodes of `last` only if the
    others do not suffice. On a node, IOMMU groups are kept whole if possible, because a group can be used by one
    pod only. Then devices are spread over the PFs (those with most free devices first), or if `packed`
    concentrated on few PFs (those with fewest free devices first); then ordered by address. Raises
    Error(INVALID_CONFIG) if there is no such choice.
    """
    chosen = {device.address: device for device in must}
    by_node: dict[int, list[NetDevice]] = {}
    for device in sorted(available, key=lambda device: device.address):
        if device.address not in chosen:
            by_node.setdefault(device.numa_node, []).append(device)
    needed, others = size - len(chosen), sum(map(len, by_node.values()))
    if not 0 <= needed <= others:
        what = f"{size} devices requested: {len(chosen)} must be among them and {others} others are available"
        raise Error(Kind.INVALID_CONFIG, what)
    taken = Counter(device.numa_node for device in chosen.values())

    def order(node: int) -> tuple[int, bool, int, str]:
        free = by_node[node]
        return -taken[node], node in last, -min(len(free), needed), free[0].address

    for node in sorted(by_node, key=order):
        for device in _of_node(by_node[node], list(chosen.values()), size - len(chosen), packed=packed):
            chosen[device.address] = device
    return sorted(chosen)


def without_memory_or_cpus(nodes: Iterable[int], hugepages: int, sysfs: str) -> set[int]:
    """Return the NUMA nodes without a CPU, or without a free hugepage of `hugepages` KiB (0: not checked)."""
    found = set()
    for node in nodes:
        path = f"{sysfs}/devices/system/node/node{node}"
        free = f"{path}/hugepages/hugepages-{hugepages}kB/free_hugepages"
        if os.path.isdir(path) and (
            not attribute_text(f"{path}/cpulist") or (hugepages and attribute_text(free) in {"", "0"})
        ):
            found.add(node)
    return found


def _of_node(
    free: Sequence[NetDevice], chosen: Sequence[NetDevice], needed: int, *, packed: bool
) -> list[NetDevice]:
    """Choose up to `needed` of the free devices of one NUMA node, in addition to those already chosen."""
    left = list(free)
    found: list[NetDevice] = []
    while left and len(found) < needed:
        on_pf = Counter(device.pf or device.address for device in (*chosen, *found))
        left_on_pf = Counter(device.pf or device.address for device in left)
        groups = {device.iommu_group for device in (*chosen, *found) if device.iommu_group}
        sizes = Counter(device.iommu_group for device in left if device.iommu_group)

        def order(device: NetDevice) -> tuple[bool, bool, int, int, str]:
            pf, group = device.pf or device.address, device.iommu_group
            sign = 1 if packed else -1
            split = sizes[group] > needed - len(found)  # noqa: B023 — called in this round
            on, rest = on_pf[pf], left_on_pf[pf]  # noqa: B023
            return group not in groups, split, -on if packed else on, sign * rest, device.address  # noqa: B023

        best = min(left, key=order)
        left.remove(best)
        found.append(best)
    return found
