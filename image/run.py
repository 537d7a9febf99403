"""Runs the programs of a build."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError, tail


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Run a program and return its standard output. Raises LabError if it fails."""
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
        raise LabError(f"{command[0]}: no such program") from error
    if done.returncode:
        said = tail(done.stderr or done.stdout, 20)
        raise LabError(f"{command[0]} failed with exit code {done.returncode}", detail=said)
    return done.stdout
