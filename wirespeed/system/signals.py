"""Immediate handling of signals, even while the main thread is blocked."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


@contextmanager
def handled(numbers: Collection[int], handle: Callable[[int], None]) -> Iterator[None]:
    """While the body runs, call `handle` with each of these signals that arrives, in a separate thread.

    Python runs a signal handler in the main thread, between two instructions: if that thread is just about to
    wait for a lock, the handler runs only after the wait. The wakeup descriptor is written at once. Must be used
    in the main thread.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    thread = threading.Thread(target=_read, args=(ours, numbers, handle), name="signals", daemon=True)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    waker = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(waker)
        theirs.close()
        thread.join()
        ours.close()


def _read(ours: socket.socket, numbers: Collection[int], handle: Callable[[int], None]) -> None:
    while came := ours.recv(64):
        for number in came:
            if number in numbers:
                handle(number)
