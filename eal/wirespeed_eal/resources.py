"""What the container may use: its CPUs and its hugepages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .pod import Sources

# Of cgroup v2, and of v1 where controllers are mounted one by one.
_CPUSETS = ("cpuset.cpus.effective", "cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus")
_LIMITS = ("hugetlb.{size}.max", "hugetlb/hugetlb.{size}.limit_in_bytes")
_SIZES = (("1GB", "1G"), ("2MB", "2M"))  # as cgroups and as the Downward API name them
_UNLIMITED = 1 << 40  # bytes: cgroup v1 writes a huge number for none
_MIB = 1 << 20


def cpus(sources: Sources | None = None) -> list[int]:
    """The CPUs that this process may run on, and that the container's cpuset has."""
    sources = sources or Sources()
    mine = os.sched_getaffinity(0)
    for name in _CPUSETS:
        listed = parse_list(_read(sources.root / "sys/fs/cgroup" / name))
        if listed:
            return sorted(mine & listed) or sorted(mine)
    return sorted(mine)


def hugepages(sources: Sources | None = None) -> int:
    """MiB of hugepages that the container may use, of all sizes; 0 where nobody says.

    The cgroup's limit counts; else what the Downward API says in files like hugepages_1G_limit_<container>.
    """
    sources = sources or Sources()
    return _cgroup_limit(sources) or _downward_limit(sources)


def parse_list(text: str) -> set[int]:
    """The numbers of a list as the kernel writes it, "0-3,8"; what is no list has none."""
    found: set[int] = set()
    for piece in text.strip().split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", piece)
        if match:
            found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _cgroup_limit(sources: Sources) -> int:
    total = 0
    for size, _ in _SIZES:
        for name in _LIMITS:
            text = _read(sources.root / "sys/fs/cgroup" / name.format(size=size)).strip()
            if text.isdecimal() and int(text) < _UNLIMITED:
                total += int(text) // _MIB
                break
    return total


def _downward_limit(sources: Sources) -> int:
    return sum(next(_downward_values(sources, size), 0) for _, size in _SIZES)


def _downward_values(sources: Sources, size: str) -> Iterator[int]:
    """MiB by the files for a size; with the container's name first, a limit before a request.

    A value is in the unit of the pod's divisor, which usually is 1Mi; a large one is in bytes.
    """
    container = sources.environ.get("CONTAINER_NAME", "")
    suffixes = [f"_{container}", ""] if container and "/" not in container else [""]
    for kind in ("limit", "request"):
        for suffix in suffixes:
            text = _read(sources.podinfo / f"hugepages_{size}_{kind}{suffix}").strip()
            if text.isdecimal() and 0 < int(text) < _UNLIMITED:
                yield int(text) // _MIB if int(text) >= _MIB else int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
