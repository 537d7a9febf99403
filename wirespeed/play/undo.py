"""A stack of undo steps that all run, even if some fail."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable

from wirespeed.cni.errors import CniError, Code

log = logging.getLogger(__name__)


class Undo:
    """Undo steps, run in reverse order."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, step: Callable[[], object]) -> None:
        """Add an undo step; `what` begins the message if it fails."""
        self._steps.append((what, step))

    def run(self) -> list[str]:
        """Run all steps; return the failures."""
        problems = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except CniError as error:
                problems.append(f"{what}: {error.msg}")
            except OSError as error:
                problems.append(f"{what}: {error.filename or ''}: {error.strerror}")
            except Exception as error:
                log.exception("%s", what)
                problems.append(f"{what}: {error!r}")
        return problems


def run(*command: str) -> None:
    """Run a program of the system. Raises CniError(IO_FAILURE) with its output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(f"{done.stderr} {done.stdout}".split()) or f"exit status {done.returncode}"
        raise CniError(Code.IO_FAILURE, f"{' '.join(command[:3])}: {said}")
