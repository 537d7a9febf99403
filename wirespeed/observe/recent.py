"""The rates of the last moments, for those who ask again and again: each answer is since the one before it."""

from __future__ import annotations

import threading
import time

from wirespeed.node import Node
from wirespeed.observe.rates import Interval, Sample, between, sample

SHORTEST = 0.5  # seconds; who asks sooner, such as a second viewer, gets the same answer again
LONGEST = 10.0  # seconds after which a sample is too old to be called recent


class Recent:
    """Keeps the last sample of a node; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Sample | None = None
        self._interval: Interval | None = None

    def interval(self, node: Node) -> Interval:
        """Return the rates since the last call; without one in the last 10 s, those of the next half second.

        Raises Error(IO) if the journal cannot be read, OSError.
        """
        with self._lock:
            last = self._last
            if last is None or time.monotonic() - last.at > LONGEST:
                last = sample(node)
                time.sleep(SHORTEST)
            elif self._interval is not None and time.monotonic() - last.at < SHORTEST:
                return self._interval
            now = sample(node)
            self._last, self._interval = now, between(last, now)
            return self._interval
