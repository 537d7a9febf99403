"""The order of calls: which ones may start now, and which ones wait for others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar


@dataclass(eq=False, kw_only=True)
class Turn:
    """A call that is to run in the lane of its plugin.

    Calls with the same `container` run one after another; it is "" for a call that concerns none. A call that is
    `exclusive` never runs at the same time as a call for a container. A `short` call never waits for the API
    server, so it has slots of its own.
    """

    lane: str
    container: str = ""
    exclusive: bool = False
    short: bool = False


class Length(NamedTuple):
    """How many turns of a lane wait, and how many run."""

    waiting: int
    running: int


T = TypeVar("T", bound=Turn)


class Lanes(Generic[T]):
    """The running and waiting turns, in one lane per plugin. In each lane, at most `width` short turns run at once,
    and at most `width` others.

    By specification 1.1.0 ("Lifecycle & Ordering"), the runtime must not make two calls for one container at once,
    nor an ADD or DEL during a GC, as the attachment of that ADD would not be on the GC's list. Runtimes violate
    this when they give up on a call and make the next one. So it is enforced here: the turns of a container start
    in the order of their arrival; a GC waits for the turns before it, and those after it wait for the GC.

    Lanes are independent of each other. If the meta-plugin executes a plugin that calls the agent for the same
    container, the two calls would deadlock if both were in one lane.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._waiting: dict[str, list[T]] = {}
        self._running: dict[str, list[T]] = {}

    @property
    def waiting(self) -> Iterator[T]:
        """The waiting turns as they are now; as `running`, this may be read from any thread."""
        return (turn for lane in list(self._waiting.values()) for turn in list(lane))

    @property
    def running(self) -> Iterator[T]:
        return (turn for lane in list(self._running.values()) for turn in list(lane))

    def lengths(self) -> dict[str, Length]:
        """Return the lengths of all lanes that were ever used, by name; in any thread."""
        # A list of the keys is made at once: `enqueue` of another thread may add one.
        return {
            lane: Length(len(self._waiting[lane]), len(self._running.get(lane, ()))) for lane in [*self._waiting]
        }

    def enqueue(self, turn: T) -> list[T]:
        """Queue a turn; return the turns that start now (this one, or none)."""
        self._waiting.setdefault(turn.lane, []).append(turn)
        return self._start_ready(turn.lane)

    def finish(self, turn: T) -> list[T]:
        """End a running turn; return those that start now."""
        self._running[turn.lane].remove(turn)
        return self._start_ready(turn.lane)

    def cancel(self, turn: T) -> list[T]:
        """Remove a waiting turn; return those that start now."""
        self._waiting[turn.lane].remove(turn)
        return self._start_ready(turn.lane)

    def _start_ready(self, lane: str) -> list[T]:
        running = self._running.setdefault(lane, [])
        busy = {turn.container for turn in running if turn.container}
        blocked = any(turn.exclusive for turn in running)
        started: list[T] = []
        for turn in self._waiting[lane]:
            full = sum(other.short == turn.short for other in running) >= self._width
            if turn.exclusive:
                free = not blocked and not busy
                blocked = True  # also while it waits: otherwise later calls could starve it
            elif turn.container:
                free = not blocked and turn.container not in busy
                busy.add(turn.container)
            else:
                free = True
            if free and not full:
                running.append(turn)
                started.append(turn)
        self._waiting[lane] = [turn for turn in self._waiting[lane] if turn not in started]
        return started
