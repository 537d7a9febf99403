"""A terminal whose whole screen a command uses: keys one by one, frames, and its earlier state at the end."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor (xterm, as all terminals of today)
_LEAVE = "\x1b[?25h\x1b[?1049l"
_BOLD, _PLAIN, _TO_END = "\x1b[1m", "\x1b[0m", "\x1b[K"
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
# Sequences of keys, after ESC; in the mode for applications, arrows have O instead of [.
_SEQUENCES = {
    "[A": UP,
    "[B": DOWN,
    "OA": UP,
    "OB": DOWN,
    "[5~": PAGE_UP,
    "[6~": PAGE_DOWN,
    "[H": HOME,
    "[F": END,
}


class Terminal:
    """The terminal on standard input and output, while `opened`."""

    def __init__(self, woken: socket.socket, before: list[Any]) -> None:
        self._woken, self._before = woken, before
        self._pending = ""  # the beginning of a key's sequence

    @property
    def size(self) -> os.terminal_size:
        return os.get_terminal_size(sys.stdout.fileno())

    def draw(self, lines: Sequence[str], *, bold: int) -> None:
        """Show lines, cut at the terminal's width; number `bold` is bold."""
        columns, rows = self.size
        shown = [line[:columns] for line in lines[:rows]]
        if bold < len(shown):
            shown[bold] = f"{_BOLD}{shown[bold]}{_PLAIN}"
        _write("\x1b[H" + "\r\n".join(f"{line}{_TO_END}" for line in shown) + "\x1b[J")

    def keys(self, until: float) -> list[str] | None:
        """Wait until keys were pressed, the terminal has another size, or `until` (time.monotonic()).

        Returns the keys as characters or as UP, DOWN ...; None if the terminal is gone.
        """
        timeout = max(0.0, until - time.monotonic())
        ready, _, _ = select.select([sys.stdin.fileno(), self._woken], [], [], timeout)
        if self._woken in ready and signal.SIGTSTP in self._woken.recv(64):
            self._stop()
        if sys.stdin.fileno() not in ready:
            return []
        try:
            text = os.read(sys.stdin.fileno(), 256).decode(errors="replace")
        except OSError:  # EIO: it was hung up
            return None
        found, self._pending = split_keys(self._pending + text)
        return found if text else None

    def _stop(self) -> None:
        """Stop this process as Ctrl-Z does, with the terminal restored; continue after SIGCONT."""
        _leave(self._before)
        os.kill(os.getpid(), signal.SIGSTOP)
        _enter()


@contextmanager
def opened() -> Iterator[Terminal]:
    """Use the terminal until the context ends. SIGINT, SIGTERM and SIGHUP restore it and end the process."""
    before = termios.tcgetattr(sys.stdin.fileno())

    def end(number: int, _: FrameType | None) -> None:
        # No exception, which could arrive while the terminal is being restored.
        _leave(before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    woken, waker = socket.socketpair()
    waker.setblocking(False)
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Their numbers are written to the wakeup descriptor.
    handlers |= {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTSTP, signal.SIGWINCH)}
    old_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    try:
        _enter()
        yield Terminal(woken, before)
    finally:
        _leave(before)
        signal.set_wakeup_fd(old_waker)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        woken.close()
        waker.close()


def _enter() -> None:
    tty.setcbreak(sys.stdin.fileno())
    _write(_ENTER)


def _leave(before: list[Any]) -> None:
    with suppress(OSError, termios.error):  # the terminal may be gone
        _write(_LEAVE)
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


def _write(text: str) -> None:
    """Write at once: a signal may arrive in between, and standard output's buffer cannot be written to then."""
    left = text.encode(errors="replace")
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def split_keys(text: str) -> tuple[list[str], str]:
    """Return the keys in what a terminal sent, and the beginning of a key that is not complete yet."""
    found, at = [], 0
    while at < len(text):
        if text[at] != "\x1b":
            found.append(text[at])
            at += 1
            continue
        rest = text[at + 1 :]
        known = next((sequence for sequence in _SEQUENCES if rest.startswith(sequence)), "")
        if known:
            found.append(_SEQUENCES[known])
        elif any(sequence.startswith(rest) for sequence in _SEQUENCES):
            return found, text[at:]
        at += 1 + len(known)
    return found, ""
