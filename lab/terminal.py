"""The terminal of the person at `lab shell`."""

import shutil
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from lab.session import Session


@contextmanager
def raw_terminal(terminal: int) -> Iterator[None]:
    """Every key goes to the guest."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def resized(session: Session) -> Iterator[None]:
    """The guest's terminal follows the size of ours."""

    def follow(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.send(do="resize", rows=size.lines, columns=size.columns)

    before = signal.signal(signal.SIGWINCH, follow)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
