"""Shows what the lab does and for how long: one updated line on a terminal, separate lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TextIO


class Progress:
    """The running steps; several may run at once. A context manager; thread-safe."""

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
        """End the updated line, so that others can write to the stream."""
        if self._live and not self._done.is_set():
            self._done.set()
            self._ticker.join()
            self._write("")

    @contextmanager
    def step(self, name: str, *, done: str = "done") -> Iterator[None]:
        """Show `name` while the context runs, then how it ended: `done` or failed."""
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
