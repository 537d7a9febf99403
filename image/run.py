"""Runs the programs of a build."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError, tail


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Run a program and return its standard output. Raises LabError with the command and the end of its output."""
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
        detail = f"{shlex.join(command)}\n{tail(done.stderr or done.stdout, 20)}"
        raise LabError(f"{command[0]} failed with exit code {done.returncode}", detail=detail)
    return done.stdout
