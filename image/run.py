"""Programs that a build runs, and its one error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class ImageError(Exception):
    """What went wrong, in one line; `detail` holds the end of what the program said."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """The standard output of a program that must succeed. Raises ImageError."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]}: no such program") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).rstrip().splitlines()[-20:]
        raise ImageError(f"{command[0]} failed with exit code {done.returncode}", detail="\n".join(lines))
    return done.stdout
