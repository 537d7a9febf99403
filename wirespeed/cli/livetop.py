"""`wirespeed top` on a terminal: the table of rates is drawn at each interval and at each key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from wirespeed.cli import terminal
from wirespeed.cli.terminal import DOWN, END, HOME, PAGE_DOWN, PAGE_UP, UP
from wirespeed.observe import rates, ratetable
from wirespeed.observe.rates import Interval, Sample
from wirespeed.observe.ratetable import SORT_KEYS
from wirespeed.text import clock

HELP = "q quit  s or < > sort  r reverse  space pause  arrows scroll"
_AROUND = 3  # lines around the rows: status, headings, help


@dataclass(frozen=True, kw_only=True)
class View:
    """What the person wants to see: sorted by which column, from which row on; `paused`: the rates stay."""

    sort: str
    reverse: bool = False
    paused: bool = False
    first: int = 0
    ended: bool = False

    def after(self, key: str, *, page: int, total: int) -> View:
        """Return the view after a key; `page` rows fit on the screen, of `total`."""
        scrolled = {UP: -1, DOWN: 1, PAGE_UP: -page, PAGE_DOWN: page, HOME: -total, END: total}
        if key in scrolled:
            return replace(self, first=max(0, min(self.first + scrolled[key], total - page)))
        if key in {"s", ">", "<"}:
            step = -1 if key == "<" else 1
            column = (SORT_KEYS.index(self.sort) + step) % len(SORT_KEYS)
            return replace(self, sort=SORT_KEYS[column], first=0)
        if key == "r":
            return replace(self, reverse=not self.reverse)
        if key == " ":
            return replace(self, paused=not self.paused)
        return replace(self, ended=self.ended or key == "q")


def frame(view: View, interval: Interval | None, *, node: str, rows: int) -> list[str]:
    """Return the lines of the screen, which has `rows`: status, headings, ports, help."""
    if interval is None:
        return [f"node {node}: the first rates come after one interval", "", HELP]
    ports = ratetable.ordered(interval.ports, view.sort, reverse=view.reverse)
    room = max(1, rows - _AROUND - len(interval.faults))
    first = max(0, min(view.first, len(ports) - room))
    shown = ports[first : first + room]
    status = f"node {node}  {clock(interval.time)}  {len(ports)} ports, per second over {interval.seconds:.1f} s"
    status += f", {first + 1} to {first + len(shown)}" if len(shown) < len(ports) else ""
    status += "  PAUSED" if view.paused else ""
    table = [ratetable.header(view.sort, ports), *ratetable.rows(ports)[first : first + room]]
    if not ports:
        table = ["", ratetable.EMPTY]
    return [status, *table, *(f"not shown: {fault}" for fault in interval.faults), HELP]


def run(sample: Callable[[], Sample], *, node: str, every: float, sort: str) -> None:
    """Show rates, each over `every` seconds, until q, Ctrl-C or the end of the terminal."""
    view, shown = View(sort=sort), None
    before = sample()
    due = before.at + every
    with terminal.opened() as screen:
        while not view.ended:
            rows = screen.size.lines
            screen.draw(frame(view, shown, node=node, rows=rows), bold=1)
            keys = screen.keys(due)
            if keys is None:
                return
            for key in keys:
                total = len(shown.ports) if shown else 0
                view = view.after(key, page=max(1, rows - _AROUND), total=total)
            if time.monotonic() >= due:
                now = sample()
                if not view.paused:
                    shown = rates.between(before, now)
                before = now
                due = max(due + every, time.monotonic())
