"""The order of calls: which ones may start now, and which ones wait for others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(eq=False, kw_only=True)
class Turn:
    """A call that is to run in the lane of its plugin.

    Calls with the same `container` run one after another; it is "" for a call that concerns none. A call that is
    `alone` never runs at the same time as a call for a container. A `brief` call never waits for the API server, so
    it has slots of its own.
    """

    lane: str
    container: str = ""
    alone: bool = False
    brief: bool = False


T = TypeVar("T", bound=Turn)


class Lanes(Generic[T]):
    """The running and waiting turns, in one lane per plugin. In each lane, at most `width` brief turns run at once,
    and at most `width` others.

    By specification 1.1.0 ("Lifecycle & Ordering"), the runtime must not make two calls for one container at once,
    nor an ADD or DEL during a GC, as the attachment of that ADD would not be on the GC's list. Runtimes violate
    this when they give up on a call and make the next one. So it is enforced here: the turns of a container start
    in the order of their arrival; a GC waits for the turns before it, and those after it wait for the GC.

    Lanes are independent of each other. If the meta-plugin executes a plugin that calls the agent for the same
    container, the inner call would wait for the outer one for ever if both were in one lane.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._waiting: dict[str, list[T]] = {}
        self._running: dict[str, list[T]] = {}

    @property
    def waiting(self) -> Iterator[T]:
        return (turn for lane in self._waiting.values() for turn in lane)

    @property
    def running(self) -> Iterator[T]:
        return (turn for lane in self._running.values() for turn in lane)

    def arrive(self, turn: T) -> list[T]:
        """Queue a turn; return the turns that start now (this one, or none)."""
        self._waiting.setdefault(turn.lane, []).append(turn)
        return self._begin(turn.lane)

    def finish(self, turn: T) -> list[T]:
        """End a running turn; return those that start now."""
        self._running[turn.lane].remove(turn)
        return self._begin(turn.lane)

    def withdraw(self, turn: T) -> list[T]:
        """Remove a waiting turn; return those that start now."""
        self._waiting[turn.lane].remove(turn)
        return self._begin(turn.lane)

    def _begin(self, lane: str) -> list[T]:
        running = self._running.setdefault(lane, [])
        busy = {turn.container for turn in running if turn.container}
        closed = any(turn.alone for turn in running)
        begun: list[T] = []
        for turn in self._waiting[lane]:
            full = sum(other.brief == turn.brief for other in running) >= self._width
            if turn.alone:
                free = not closed and not busy
                closed = True  # also while it waits: otherwise later calls could overtake it for ever
            elif turn.container:
                free = not closed and turn.container not in busy
                busy.add(turn.container)
            else:
                free = True
            if free and not full:
                running.append(turn)
                begun.append(turn)
        self._waiting[lane] = [turn for turn in self._waiting[lane] if turn not in begun]
        return begun
