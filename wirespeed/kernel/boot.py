"""The current boot of the kernel: its id, and whether a file is older than it."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Return the kernel's boot id (random(4)), new with each boot and the same in every container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_of_earlier_boot(path: Path) -> bool:
    """Whether a file was last changed before this boot. Raises OSError."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return path.stat().st_mtime < booted
