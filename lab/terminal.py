"""The terminal of the user of `lab shell`."""

import shutil
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from lab.session import Session


@contextmanager
def shared_terminal(session: Session, terminal: int) -> Iterator[None]:
    """Set the terminal to raw mode, so that every key reaches the guest, whose terminal always gets its size."""

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.send(do="resize", rows=size.lines, columns=size.columns)

    attributes, handler = termios.tcgetattr(terminal), signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
        signal.signal(signal.SIGWINCH, handler)
