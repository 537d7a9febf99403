"""The terminal of the user of `lab shell`."""

import shutil
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from lab.session import Session


@contextmanager
def raw_terminal(terminal: int) -> Iterator[None]:
    """Set the terminal to raw mode, so that every key reaches the guest."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def resized(session: Session) -> Iterator[None]:
    """Give the guest's terminal the size of ours, also after a change."""

    def follow(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.send(do="resize", rows=size.lines, columns=size.columns)

    before = signal.signal(signal.SIGWINCH, follow)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
