"""Signals that arrive while the main thread sleeps."""

from __future__ import annotations

import signal
import threading

from wirespeed.system import signals

PATIENCE = 20.0


def test_a_signal_that_does_not_wake_the_main_thread_is_handled() -> None:
    came: list[int] = []
    both = threading.Event()

    def note(number: int) -> None:
        came.append(number)
        if len(came) == 2:
            both.set()

    # to this thread, so that the main thread is not woken, as when a signal arrives just before it sleeps
    def send() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            signal.pthread_kill(threading.get_ident(), number)

    before = signal.getsignal(signal.SIGUSR1)
    others = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with signals.handled((signal.SIGUSR1,), note):
            sender = threading.Thread(target=send)
            sender.start()
            assert both.wait(PATIENCE)
            sender.join()
    finally:
        signal.signal(signal.SIGUSR2, others)
    assert came == [signal.SIGUSR1] * 2
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.set_wakeup_fd(-1) == -1
