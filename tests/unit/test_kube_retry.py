"""Which API server failures are retried, and when."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from wirespeed.kube.api import RefusedError, Timeouts, UnreachableError, UntrustedError
from wirespeed.kube.retry import RetryPolicy, may_succeed_soon, with_retries

WAITS = RetryPolicy(first=Timeouts(connect=0.01, read=0.02, total=0.03), longest=0.08, pauses=(0.001, 0.01))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnreachableError("timed out"), True),
        *[(RefusedError(status, ""), True) for status in (408, 409, 425, 429, 500, 502, 503, 504)],
        (UntrustedError("another authority"), False),
        *[(RefusedError(status, ""), False) for status in (400, 401, 403, 404, 405, 410, 413, 415, 422)],
    ],
)
def test_table(error: RefusedError | UnreachableError, expected: bool) -> None:
    assert may_succeed_soon(error) is expected


class Server:
    """Fails with each of the errors in turn, then answers; `seen` are the timeouts of the attempts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.seen = list(errors), list[Timeouts]()

    def ask(self, timeouts: Timeouts) -> str:
        self.seen.append(timeouts)
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def asked(
    server: Server, seconds: float, *, stopped: threading.Event | None = None, policy: RetryPolicy = WAITS
) -> str:
    until = time.monotonic() + seconds
    return with_retries(server.ask, what="it", until=until, policy=policy, stopped=stopped or threading.Event())


def test_failure_is_asked_about_until_there_is_an_answer() -> None:
    server = Server(UnreachableError("a"), RefusedError(503, "b"), RefusedError(429, "c", 0.01))
    assert asked(server, 30.0) == "answer"
    assert [timeouts.read for timeouts in server.seen] == [0.02, 0.04, 0.08, 0.08]  # doubled up to the maximum


def test_without_a_deadline_it_is_asked_once() -> None:
    server = Server(UnreachableError("a"))
    with pytest.raises(UnreachableError):
        asked(server, -math.inf)
    assert server.seen == [WAITS.first]


def test_conflicts_are_made_anew_without_a_deadline_too() -> None:
    server = Server(RefusedError(409, "a"), RefusedError(409, "b"))
    # Without a deadline, the request's own total applies: long enough for a busy machine.
    policy = WAITS._replace(first=Timeouts(connect=10.0, read=20.0, total=30.0))
    assert asked(server, -math.inf, policy=policy) == "answer"


@pytest.mark.parametrize("error", [RefusedError(403, ""), RefusedError(401, ""), UntrustedError("")])
def test_what_asking_again_does_not_change_is_asked_once(error: Exception) -> None:
    server = Server(error)
    with pytest.raises(type(error)):
        asked(server, 30.0)
    assert len(server.seen) == 1


def test_last_error_says_how_often_it_was_asked() -> None:
    server = Server(*[UnreachableError(str(number)) for number in range(1000)])
    with pytest.raises(UnreachableError) as caught:
        asked(server, 1.0)
    assert caught.value.attempts == len(server.seen) > 1
    assert str(caught.value) == str(len(server.seen) - 1)


def test_server_that_asks_for_more_time_than_there_is_is_not_asked_again() -> None:
    server = Server(RefusedError(503, "", 60.0))
    with pytest.raises(RefusedError):
        asked(server, 30.0)
    assert len(server.seen) == 1


def test_what_the_server_asks_for_is_waited_for_and_spread() -> None:
    waited: list[float] = []

    class Ending(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waited.append(timeout)
            return False

    for _ in range(50):
        asked(Server(RefusedError(429, "", 2.0)), 30.0, stopped=Ending())
    assert min(waited) >= 2.0
    assert max(waited) <= 3.0
    assert len(set(waited)) > 40


def test_agent_that_ends_gives_up() -> None:
    stopped = threading.Event()
    stopped.set()
    server = Server(UnreachableError("a"))
    with pytest.raises(UnreachableError):
        asked(server, 30.0, stopped=stopped)


@pytest.mark.parametrize("make", [lambda: UnreachableError("a"), lambda: RefusedError(500, "b")])
def test_pauses_grow(make: Callable[[], Exception]) -> None:
    waited: list[float] = []

    class Ending(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waited.append(timeout)
            return False

    asked(Server(*[make() for _ in range(8)]), 30.0, stopped=Ending())
    for number, pause in enumerate(waited):
        longest = min(0.01, 0.001 * 2**number)
        assert longest / 2 <= pause <= longest
