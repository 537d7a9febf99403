"""Runs other programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab.errors import LabError


def run(*command: str, folder: Path | None = None) -> None:
    """Run a program. Raises LabError with its error output if it fails."""
    environment = dict(os.environ, LC_ALL="C")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise LabError(f"{Path(command[0]).name} failed: {' '.join(command[1:])}", detail=done.stderr)
