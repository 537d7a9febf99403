"""Says what the lab is doing and for how long: one living line on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TextIO


class Progress:
    """Steps under way, several at once if need be. A context manager; safe to call from any thread."""

    def __init__(self, stream: TextIO | None = None, *, label: str = "lab") -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._label = label
        self._steps: dict[str, float] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the living line; from now on the stream belongs to others."""
        if self._live and not self._done.is_set():
            self._done.set()
            self._ticker.join()
            self._write("")

    @contextmanager
    def step(self, name: str, *, done: str = "done") -> Iterator[None]:
        """Shows `name` while the body runs, and how it ended: with `done`, or failed."""
        started = time.monotonic()
        with self._lock:
            self._steps[name] = started
            if not self._live:
                self._write(f"{self._label}: {name} ...\n")
        outcome = "failed"
        try:
            yield
            outcome = done
        finally:
            with self._lock:
                del self._steps[name]
                self._write(f"{self._label}: {name}: {outcome} in {time.monotonic() - started:.1f} s\n")

    def say(self, text: str) -> None:
        """One line that stays."""
        with self._lock:
            self._write(f"{self._label}: {text}\n")

    def _tick(self) -> None:
        while not self._done.wait(0.2):
            with self._lock:
                now = time.monotonic()
                running = [f"{name} {now - started:.0f} s" for name, started in self._steps.items()]
                if running:
                    self._write(f"{self._label}: " + " | ".join(running))

    def _write(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + text)
        self._stream.flush()
