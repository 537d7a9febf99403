"""Writes a directory as an image layer: a reproducible tar archive."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lab.errors import LabError


class Layer(NamedTuple):
    """A compressed layer: file, SHA-256 and size in bytes; `diff_id` is the SHA-256 of the uncompressed tar."""

    path: Path
    digest: str
    size: int
    diff_id: str


class _Digest:
    """Forwards what is written, and calculates its SHA-256."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def write_layer(root: Path, target: Path, *, epoch: int, unused: Sequence[str] = ()) -> Layer:
    """Write the content of `root` as a layer to `target`, except paths that match the glob patterns `unused`.

    Names are sorted, mtimes are at most `epoch` (seconds), and root owns everything. Python bytecode is included
    as it is, so it must not depend on time (`python -m compileall --invalidation-mode unchecked-hash`).
    Raises LabError for a file of a type that a layer cannot have.
    """
    with target.open("wb") as file:
        compressed: Any = _Digest(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=compressed, mtime=0) as packer:
            plain: Any = _Digest(packer)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name in _names(root, unused):
                    _add(archive, root / name, name, epoch)
    return Layer(
        path=target,
        digest=compressed.sha256.hexdigest(),
        size=target.stat().st_size,
        diff_id=plain.sha256.hexdigest(),
    )


def _names(root: Path, unused: Sequence[str]) -> Iterator[str]:
    """Yield the paths in `root`, directories before their content."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        at = os.path.relpath(folder, root)
        names = sorted([*folders, *files])
        for name in names:
            path = name if at == "." else f"{at}/{name}"
            if not any(fnmatch.fnmatchcase(path, pattern) for pattern in unused):
                yield path
            elif name in folders:
                folders.remove(name)


def _add(archive: tarfile.TarFile, path: Path, name: str, epoch: int) -> None:
    status = path.lstat()
    entry = tarfile.TarInfo(name)
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.mtime = min(int(status.st_mtime), epoch)
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        archive.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with path.open("rb") as content:
            archive.addfile(entry, content)
    else:
        raise LabError(f"{path}: expected a file, folder or symbolic link")
