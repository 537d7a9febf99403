"""Unpacks tar archives."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path


def unpack(
    archive: tarfile.TarFile,
    folder: Path,
    *,
    members: Iterable[tarfile.TarInfo] | None = None,
    trusted: bool = False,
) -> None:
    """Unpack an archive, or only its `members`, into a folder.

    If `trusted`, modes, owners and links are kept as they are; otherwise files outside of the folder are refused.
    Python before 3.11.4 (Debian 12 has 3.11.2) has no such filters, and trusts every archive.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, members, filter="fully_trusted" if trusted else "data")
    else:
        archive.extractall(folder, members)
