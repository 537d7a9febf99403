"""Describing an executable, for a person who wants to know who installed it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_GO = bytes.fromhex("3077af0c9274080241e1c107e6d618e6")  # precedes the data of runtime/debug.ReadBuildInfo
_PROGRAM = re.compile(re.escape(_GO) + rb"path\t([!-~]+)\n(?:mod\t[!-~]+\t([!-~]+))?")
_LONGEST = 4096  # bytes of a match at most
_DIGITS = 12  # of the digest that are shown


def describe(path: Path) -> str:
    """'github.com/k8snetworkplumbingwg/sriov-cni/cmd/sriov v2.9.0 (5218304 bytes, sha256 0f343b093112)'.

    The program and its version are those that Go's compiler embedded. Raises OSError.
    """
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    digest, size, before, program = hashlib.sha256(), 0, b"", ""
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # no mmap: if the file were truncated, SIGBUS would end this process
            digest.update(block)
            size += len(block)
            if not program:
                before = before[-_LONGEST:] + block
                program = _program(before)
    return f"{program or 'a file'} ({size} bytes, sha256 {digest.hexdigest()[:_DIGITS]})"


def _program(data: bytes) -> str:
    match = _PROGRAM.search(data)
    return b" ".join(part for part in match.groups() if part).decode("ascii") if match else ""
