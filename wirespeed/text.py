"""Text for terminals and files: tables, times, and names that cannot change the terminal."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence


def printable(text: str, *, ascii_only: bool = False) -> str:
    """Replace what could change the terminal: an interface's name may contain any character but "/" and spaces."""
    return "".join(c if c.isprintable() and (c.isascii() or not ascii_only) else "?" for c in text)


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> Iterator[str]:
    """Yield a line for each row, whose cells are as wide as their columns; a row may have fewer cells than others.

    The columns whose numbers are in `right` are aligned to the right.
    """
    columns = range(max(map(len, rows), default=0))
    widths = [max(len(row[number]) for row in rows if number < len(row)) for number in columns]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        )


def table(rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> Iterator[str]:
    """Yield the lines of a table, as `aligned` does, without spaces at their ends."""
    return (line.rstrip() for line in aligned(rows, right=right))


def clock(at: float) -> str:
    """Return a time in seconds since 1970 as all commands show it: RFC 3339 in UTC, "2026-12-01T21:16:31Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
