"""Text that may be shown on a terminal."""

from __future__ import annotations


def printable(text: str, *, ascii_only: bool = False) -> str:
    """Replace what could change the terminal: an interface's name may contain any character but "/" and spaces."""
    return "".join(c if c.isprintable() and (c.isascii() or not ascii_only) else "?" for c in text)
