"""The CPUs and hugepages that the container may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .pod import Sources

# Paths of cgroup v2, then of v1 with each controller mounted separately.
_CPUSETS = ("cpuset.cpus.effective", "cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus")
_LIMITS = ("hugetlb.{size}.max", "hugetlb/hugetlb.{size}.limit_in_bytes")
_SIZES = (("1GB", "1G"), ("2MB", "2M"))  # names in cgroup files, and in Downward API files
_UNLIMITED = 1 << 40  # bytes; for no limit, cgroup v1 has a huge number
_MIB = 1 << 20


def cpus(sources: Sources | None = None) -> list[int]:
    """Return the CPUs that both the process's affinity and the container's cpuset include."""
    sources = sources or Sources()
    mine = os.sched_getaffinity(0)
    for name in _CPUSETS:
        listed = parse_list(_read(sources.root / "sys/fs/cgroup" / name))
        if listed:
            return sorted(mine & listed) or sorted(mine)
    return sorted(mine)


def hugepages(sources: Sources | None = None) -> int:
    """Return the MiB of hugepages that the container may use, of all sizes; 0 if unknown.

    The source is the cgroup's limit, or else Downward API files such as hugepages_1G_limit_<container>.
    """
    sources = sources or Sources()
    return _cgroup_limit(sources) or sum(next(_downward_values(sources, size), 0) for _, size in _SIZES)


def parse_list(text: str) -> set[int]:
    """Return the numbers in a kernel list such as "0-3,8"; none if it is invalid."""
    found: set[int] = set()
    for piece in text.strip().split(","):
        if match := re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", piece):
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


def _downward_values(sources: Sources, size: str) -> Iterator[int]:
    """Yield the MiB in the files for a page size: limits before requests, files with the container's name first.

    A value is in units of the pod's divisor. It is taken as MiB (divisor 1Mi) if small, as bytes if large.
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
