"""The agent as a child process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from wirespeed.errors import Error, Kind

_END = 120.0  # seconds for the agent to finish its calls


class Agent:
    """`wirespeed agent` with the configuration file `config`. `folder` is for the socket for its readiness message.

    `changed` is notified when the agent is ready or has ended. `write` gets each line of its log.
    """

    def __init__(
        self,
        config: Path,
        folder: Path,
        *,
        log_level: str,
        changed: threading.Condition,
        write: Callable[[str], None],
    ) -> None:
        self._config, self._socket, self._log_level = config, folder / "notify.sock", log_level
        self._changed, self._write = changed, write
        self._process: subprocess.Popen[str] | None = None
        self._last = ""
        self.ready = False

    def start(self) -> None:
        """Start the agent. `ready` becomes true when it serves, `ended` when its process has ended."""
        self.ready = False
        self._socket.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self._socket))
        self._process = process = subprocess.Popen(
            # If this process is killed, the kernel ends the agent: it does so when the thread that forked it ends.
            [
                *("setpriv", "--pdeathsig", "TERM", sys.executable, "-P", "-m", "wirespeed", "agent"),
                *("--config", str(self._config), "--log-level", self._log_level),
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(self._socket)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._await_ready, args=(notify,), name="agent ready", daemon=True).start()
        threading.Thread(target=self._follow, args=(process, notify), name="agent log", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether the agent was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def failure(self) -> Error:
        """Return the error for an agent that ended by itself, with its last line of output."""
        status = self._process.returncode if self._process else None
        return Error(Kind.UNAVAILABLE, f"the agent ended with {status}: {self._last or 'it printed nothing'}")

    def stop(self) -> None:
        """Stop the agent if it runs, and wait for its calls to finish. Raises Error(UNAVAILABLE)."""
        process = self._process
        if process is None or self.ended:
            return
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Error(Kind.UNAVAILABLE, f"the agent did not end within {_END:g} s and was killed") from None
        if status:
            raise self.failure()

    def _await_ready(self, notify: socket.socket) -> None:
        with notify:
            while message := notify.recv(4096):
                if message.startswith(b"READY=1"):
                    with self._changed:
                        self.ready = True
                        self._changed.notify_all()

    def _follow(self, process: subprocess.Popen[str], notify: socket.socket) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._last = line.strip() or self._last
                self._write(line.rstrip("\n"))
        process.wait()
        notify.shutdown(socket.SHUT_RD)
        with self._changed:
            self._changed.notify_all()
