"""The order of calls: which one may begin now, and which one waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(eq=False, kw_only=True)
class Turn:
    """A call that wants to run in the lane of its plugin.

    `container` is the container whose calls run one after another, "" for a call that concerns none. One that
    runs `alone` runs beside no call that concerns a container. One that is `brief` waits for no API server, and has
    room beside those that may.
    """

    lane: str
    container: str = ""
    alone: bool = False
    brief: bool = False


T = TypeVar("T", bound=Turn)


class Lanes(Generic[T]):
    """Turns that run and turns that wait, in one lane for each plugin, `width` brief ones at once in each, and as
    many others.

    The specification 1.1.0 ("Lifecycle & Ordering") has the runtime make no two calls for one container at
    once, and no ADD or DEL beside a GC, whose list of attachments to keep an ADD would not be on. Runtimes
    break that when they give up on a call and make the next one, so it is kept here: the turns of a container
    begin in the order in which they arrived, and a GC waits for the turns before it and holds those after it.

    Lanes are independent, and so is their width. A plugin that another one executes calls the agent again for
    the same container while the outer call runs: in one lane it would wait for the call that waits for it.
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
        """Line up; the turns that begin now (this one, or none)."""
        self._waiting.setdefault(turn.lane, []).append(turn)
        return self._begin(turn.lane)

    def finish(self, turn: T) -> list[T]:
        """End a turn that runs; those that begin now."""
        self._running[turn.lane].remove(turn)
        return self._begin(turn.lane)

    def withdraw(self, turn: T) -> list[T]:
        """Give up a turn that waits; those that begin now."""
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
                closed = True  # also while it waits: calls that come later must not pass it for ever
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
