"""A shell command on this machine that runs once the pods are ready."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping

from wirespeed.play.screen import Screen

_GRACE = 10.0  # seconds from SIGTERM to SIGKILL


class Command:
    """A shell command; `changed` is notified when it has ended."""

    def __init__(self, text: str, screen: Screen, changed: threading.Condition) -> None:
        self._text, self._screen, self._changed = text, screen, changed
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, name="command")
        self.exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.exit_code is not None

    def start(self, variables: Mapping[str, str]) -> None:
        """Start the command with these variables in addition to those of this process."""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._text],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """End the command and its process group, if it runs."""
        if self._process is None:
            return
        if not self.ended:
            self._signal(signal.SIGTERM)
            self._thread.join(_GRACE)
            if self._thread.is_alive():
                self._signal(signal.SIGKILL)
        self._thread.join()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._screen.line("then", line.rstrip("\n"))
        code = self._process.wait()
        with self._changed:
            self.exit_code = code
            self._changed.notify_all()
