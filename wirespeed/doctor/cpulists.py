"""Lists and masks of CPUs, and lists of NUMA nodes, as the kernel writes them (cpuset(7), "Formats")."""

from __future__ import annotations

from collections.abc import Iterable

from wirespeed.errors import Error, Kind

Cpus = frozenset[int]
NONE: Cpus = frozenset()


def of_list(text: str) -> Cpus:
    """Return the numbers of a list like "0-3,8". Raises Error(INVALID_DATA)."""
    found: set[int] = set()
    try:
        for part in filter(None, text.strip().split(",")):
            first, dash, last = part.partition("-")
            found.update(range(int(first), int(last if dash else first) + 1))
    except ValueError as error:
        raise Error(Kind.INVALID_DATA, expected='a list of numbers like "0-3,8"', got=text) from error
    return frozenset(found)


def of_mask(text: str) -> Cpus:
    """Return the CPUs of a hexadecimal mask like "ff,00000003" or "0x3". Raises Error(INVALID_DATA)."""
    try:
        mask = int(text.strip().replace(",", ""), 16)
    except ValueError as error:
        raise Error(Kind.INVALID_DATA, expected='a mask like "ff,00000003"', got=text) from error
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def text_of(numbers: Iterable[int]) -> str:
    """Return numbers as a list like "0-3,8", "none" for none."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts) or "none"
