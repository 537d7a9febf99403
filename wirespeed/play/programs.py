"""Runs programs of the system: ip, mount, umount."""

from __future__ import annotations

import subprocess

from wirespeed.errors import Error, Kind


def run(*command: str) -> None:
    """Run a program of the system. Raises Error(IO) with its output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        output = " ".join(f"{done.stderr} {done.stdout}".split()) or f"exit status {done.returncode}"
        raise Error(Kind.IO, output, where=" ".join(command[:3]))
