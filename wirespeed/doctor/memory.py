"""Checks of the memory: hugepages on the NUMA nodes of the cards, and what moves or merges pages."""

from __future__ import annotations

import re
from typing import NamedTuple

from wirespeed.doctor.cpulists import text_of
from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, check_each

_SUBJECT = Subject.MEMORY
_HUGETLB = "kernel: admin-guide/mm/hugetlbpage.rst"
_NODES = "/sys/devices/system/node"
_SIZE = re.compile(r"hugepages-(\d+)kB")


class NumaNode(NamedTuple):
    """A NUMA node."""

    number: int

    def __str__(self) -> str:
        return f"NUMA node {self.number}"


def _pages(facts: Facts, node: NumaNode, what: str) -> dict[int, int]:
    """Return how many hugepages a NUMA node has, by their size in KiB; `what` is a file like "nr_hugepages"."""
    folder = f"{_NODES}/node{node.number}/hugepages"
    found = {}
    for name in facts.files.entries(folder):
        if match := _SIZE.fullmatch(name):
            found[int(match[1])] = facts.files.number(f"{folder}/{name}/{what}")
    return found


def _told(pages: dict[int, int]) -> str:
    sizes = [f"{count} of {size // 1024} MiB" for size, count in sorted(pages.items()) if count]
    return ", ".join(sizes) or "none"


@check(
    "hugepages-reserved",
    _SUBJECT,
    expected="reserved hugepages",
    otherwise=Severity.ERROR,
    why="DPDK applications and vhost-user ports take the memory of packets from hugepages: without any, no such "
    "pod starts. An entry of the TLB covers 2 MiB or 1 GiB then, instead of 4 KiB",
    source=f'{_HUGETLB}; DPDK Getting Started Guide, "Use of Hugepages"',
    fix="add `default_hugepagesz=1G hugepagesz=1G hugepages=8` to the kernel's command line, reboot; or now: "
    "`echo 1024 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`, and restart the kubelet",
)
def hugepages_reserved(facts: Facts) -> Answer:
    total: dict[int, int] = {}
    for name in facts.files.entries("/sys/kernel/mm/hugepages"):
        if match := _SIZE.fullmatch(name):
            total[int(match[1])] = facts.files.number(f"/sys/kernel/mm/hugepages/{name}/nr_hugepages")
    return Holds(_told(total)) if any(total.values()) else Fails("none")


@check_each(
    lambda facts: [NumaNode(node) for node in facts.card_nodes],
    "hugepages-near-card",
    _SUBJECT,
    expected="hugepages on each NUMA node that has a network card",
    why="otherwise each packet crosses the link between the sockets, whose latency and bandwidth are worse than "
    "those of local memory",
    source=f'DPDK Getting Started Guide, "How to get best performance"; {_HUGETLB}',
)
def hugepages_near_card(facts: Facts, node: NumaNode) -> Answer:
    pages = _pages(facts, node, "nr_hugepages")
    if any(pages.values()):
        return Holds(_told(pages))
    size = max(pages, default=2048) if len(pages) == 1 else 2048
    return Fails(
        "none",
        fix=f"`echo 1024 > {_NODES}/node{node.number}/hugepages/hugepages-{size}kB/nr_hugepages`, or at boot "
        f"`hugepagesz=1G hugepages={node.number}:8`; then restart the kubelet",
    )


@check_each(
    lambda facts: [NumaNode(node) for node in facts.card_nodes],
    "hugepages-free",
    _SUBJECT,
    expected="free hugepages for the next pod",
    otherwise=Severity.INFO,
    why="a pod that gets no hugepages of the card's NUMA node gets them elsewhere, or does not start",
    source=_HUGETLB,
    fix="`grep -H Huge /sys/devices/system/node/node*/meminfo`; reserve more, or find who holds them: files in "
    "/dev/hugepages of programs that ended",
)
def hugepages_free(facts: Facts, node: NumaNode) -> Answer:
    total, free = _pages(facts, node, "nr_hugepages"), _pages(facts, node, "free_hugepages")
    if not any(total.values()):
        return None
    return Holds(f"{_told(free)}, of {_told(total)}") if any(free.values()) else Fails(f"none, of {_told(total)}")


@check(
    "hugepages-1g",
    _SUBJECT,
    expected="hugepages of 1 GiB",
    otherwise=Severity.INFO,
    why="DPDK recommends them for 64-bit applications, if the CPU has them: fewer pages, fewer TLB misses; they "
    "can only be reserved surely at boot, before memory is fragmented",
    source=f'DPDK Getting Started Guide, "Use of Hugepages"; {_HUGETLB}',
    fix="add `default_hugepagesz=1G hugepagesz=1G hugepages=8` to the kernel's command line, and reboot",
)
def hugepages_1g(facts: Facts) -> Answer:
    words = facts.files.text("/proc/cpuinfo").split()
    if "flags" in words and "pdpe1gb" not in words:
        return None
    count = facts.files.number("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", 0)
    return Holds(f"{count} pages") if count else Fails("none")


@check(
    "numa-memory",
    _SUBJECT,
    expected="memory on each NUMA node that has a network card",
    otherwise=Severity.ERROR,
    why="without memory modules on the socket, every packet of the card goes to the memory of the other one",
    source='DPDK Getting Started Guide, "How to get best performance": a DIMM in each channel',
    fix="put memory modules into the slots of that socket",
)
def numa_memory(facts: Facts) -> Answer:
    if not facts.card_nodes:
        return None
    empty = [node for node in facts.card_nodes if not _mem_total(facts, node)]
    if empty:
        return Fails(f"NUMA node {text_of(empty)} has none")
    return Holds(f"NUMA node {text_of(facts.card_nodes)} has memory")


def _mem_total(facts: Facts, node: int) -> int:
    match = re.search(r"MemTotal:\s+(\d+) kB", facts.files.text(f"{_NODES}/node{node}/meminfo"))
    return int(match[1]) if match else 0


@check(
    "numa-balancing",
    _SUBJECT,
    expected="no automatic NUMA balancing",
    why="the kernel unmaps pages of running programs to see who uses them: page faults in the middle of polling",
    source="kernel: admin-guide/sysctl/kernel.rst, numa_balancing",
    fix="`sysctl -w kernel.numa_balancing=0`; keep it in /etc/sysctl.d",
)
def numa_balancing(facts: Facts) -> Answer:
    if len(facts.numa_nodes) < 2:
        return None
    value = facts.files.number("/proc/sys/kernel/numa_balancing", 0)
    return Fails(f"numa_balancing is {value}") if value else Holds("numa_balancing is 0")


@check(
    "transparent-hugepages",
    _SUBJECT,
    expected="transparent hugepages only where a program asks for them (madvise), or never",
    otherwise=Severity.INFO,
    why="with always, the kernel compacts and collapses memory of all programs, and each stalls meanwhile; DPDK's "
    "memory is not of this kind",
    source="kernel: admin-guide/mm/transhuge.rst",
    fix="`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`; at boot `transparent_hugepage=madvise`",
)
def transparent_hugepages(facts: Facts) -> Answer:
    text = facts.files.text("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
    return Fails("always") if "[always]" in text else Holds(text[text.find("[") + 1 : text.find("]")])


@check(
    "page-merging",
    _SUBJECT,
    expected="no merging of equal pages (KSM)",
    otherwise=Severity.INFO,
    why="ksmd scans memory all the time, and a write to a merged page first copies it",
    source="kernel: admin-guide/mm/ksm.rst",
    fix="`echo 2 > /sys/kernel/mm/ksm/run`",
)
def page_merging(facts: Facts) -> Answer:
    return Fails("run is 1") if facts.files.number("/sys/kernel/mm/ksm/run", 0) == 1 else Holds("it does not run")


@check(
    "swap",
    _SUBJECT,
    expected="no swap",
    why="a page that is swapped in takes the time of thousands of packets; the kubelet does not start with swap "
    "unless it is told to",
    source="Kubernetes: Swap memory management; kernel: admin-guide/sysctl/vm.rst",
    fix="`swapoff -a`, and remove it from /etc/fstab",
)
def swap(facts: Facts) -> Answer:
    areas = [line.split()[0] for line in facts.files.text("/proc/swaps", "").splitlines()[1:] if line]
    return Fails(f"on {', '.join(areas)}") if areas else Holds("none")
