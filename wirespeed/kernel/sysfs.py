"""Reading sysfs: attributes, symbolic links and folders, which may disappear at any time.

Paths are str, not Path: an ADD reads a dozen files, the inventory thousands, and Path is slower than the kernel.
"""

from __future__ import annotations

import os


def attribute_text(path: str, default: str = "") -> str:
    """Return the text of an attribute, stripped; `default` if it does not exist or cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return default
    try:
        return os.read(file, 4096).decode(errors="replace").strip()
    except OSError:
        return default
    finally:
        os.close(file)


def attribute_number(path: str, default: int = -1) -> int:
    """Return the decimal number in an attribute; `default` if it cannot be read or is none."""
    try:
        return int(attribute_text(path))
    except ValueError:
        return default


def link_name(path: str) -> str:
    """Return the last part of a symbolic link's target, "" if there is no link."""
    try:
        return os.readlink(path).rpartition("/")[2]
    except OSError:
        return ""


def parent_name(path: str) -> str:
    """Return the name of the parent of the device at `path`, a symbolic link in a bus's folder; "" without one."""
    try:
        return os.readlink(path).rsplit("/", 2)[-2]
    except (OSError, IndexError):
        return ""


def entries(folder: str) -> list[str]:
    """Return the entries of a folder, sorted; empty if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
