"""Runs programs of the system: ip, mount, umount."""

from __future__ import annotations

import subprocess

from wirespeed.cni.errors import CniError, Code


def run(*command: str) -> None:
    """Run a program of the system. Raises CniError(IO_FAILURE) with its output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(f"{done.stderr} {done.stdout}".split()) or f"exit status {done.returncode}"
        raise CniError(Code.IO_FAILURE, f"{' '.join(command[:3])}: {said}")
