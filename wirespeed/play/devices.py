"""A container's device nodes, which the runtime creates like those of this machine."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from wirespeed.errors import Error, Kind, Thing, as_error

_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


class Node(NamedTuple):
    """A device node in a container; `kind` is "c", "b" or "p", as in mknod(1)."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0


def node(path: str, host: str) -> Node:
    """Return a copy of this machine's node `host` at `path`, owned by root. Raises Error(DEVICE)."""
    try:
        found = os.lstat(host)
    except OSError as error:
        raise as_error(error, Thing("device", host)).of_kind(Kind.DEVICE) from error
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise Error(Kind.DEVICE, where=Thing("device", host), expected="a device node")
    return Node(path, kind, os.major(found.st_rdev), os.minor(found.st_rdev), mode=stat.S_IMODE(found.st_mode))
