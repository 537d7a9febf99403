"""The output of a play: the containers' output, the pods' states, and a table of their interfaces."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

# Escape sequences that move the cursor or colour text. They are removed from containers' output.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
_UNLIMITED = 10_000  # width of tables if the output is not a terminal: their rows are not broken


class PodRow(NamedTuple):
    """The state of a pod; `ready` is text such as "1/2"."""

    pod: str
    phase: str
    ready: str
    restarts: int
    reason: str


class InterfaceRow(NamedTuple):
    """An interface of a pod, from network-status."""

    pod: str
    interface: str
    network: str
    addresses: str
    mac: str
    device: str
    driver: str


class Terminal(Console):
    """A console that ignores a broken pipe: if the reader of the output is gone, the play continues without it."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


class Screen:
    """Prints to `console`; thread-safe. On a terminal, a table of `pods` stays below all other output."""

    def __init__(self, console: Console, *, logs: bool = True) -> None:
        self._console, self._logs = console, logs
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._colours: dict[str, str] = {}
        self._shown: dict[str, PodRow] = {}
        if not console.is_terminal:
            console.width = _UNLIMITED

    @contextmanager
    def showing(self, pods: Callable[[], Iterable[PodRow]]) -> Iterator[None]:
        """Show the pods' states until the context ends."""
        if not self._console.is_terminal:
            yield
            return
        live = Live(get_renderable=lambda: _pod_table(pods()), console=self._console, auto_refresh=False)
        with live:
            self._live = live
            try:
                yield
            finally:
                live.refresh()
                self._live = None

    def output(self, source: str, text: str) -> None:
        """Print a line of a container's output."""
        if self._logs:
            self.line(source, text)

    def line(self, source: str, text: str) -> None:
        """Print a line with its source in front."""
        text = _ESCAPES.sub("", text)
        shown = "".join(c if c.isprintable() or c == "\t" else "�" for c in text)
        with self._lock:
            colour = self._colours.setdefault(source, _COLOURS[len(self._colours) % len(_COLOURS)])
        self._print(Text.assemble((f"{source} | ", colour), shown))

    def note(self, text: str) -> None:
        """Print what the play does."""
        self._print(Text(text, style="bold"))

    def state(self, row: PodRow) -> None:
        """Print a pod's state if it has changed."""
        with self._lock:
            if self._shown.get(row.pod) == row:
                return
            self._shown[row.pod] = row
        if self._live:
            self._live.refresh()
        elif not self._console.is_terminal:
            restarts = f", restarts {row.restarts}" if row.restarts else ""
            reason = f": {row.reason}" if row.reason else ""
            self._print(Text(f"pod {row.pod}: {row.phase}, ready {row.ready}{restarts}{reason}"))

    def interfaces(self, rows: Sequence[InterfaceRow]) -> None:
        table = _table("Pod", "Interface", "Network", "Addresses", "MAC", "Device", "Driver", title="Interfaces")
        for number, row in enumerate(rows):
            last = number + 1 == len(rows) or rows[number + 1].pod != row.pod
            table.add_row(*row, end_section=last)
        self._console.print(table)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def _pod_table(rows: Iterable[PodRow]) -> Table:
    table = _table("Pod", "Phase", "Ready", "Restarts", "Reason")
    for row in rows:
        table.add_row(row.pod, row.phase, row.ready, str(row.restarts), row.reason)
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    """Return a table that wraps cells instead of truncating them."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
