"""What is asked of the API server again when it fails, and when: the one table of failures, and the one loop."""

from __future__ import annotations

import enum
import logging
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, TypeVar

from wirespeed.kube.api import Patience, RefusedError, UnreachableError, UntrustedError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Verdict(enum.Enum):
    """What a failure means for the same request made again."""

    AGAIN = "soon it may be answered"
    LATER = "not before something else has changed, which is for whoever can wait for that"
    NEVER = "it would be answered alike"


# 4xx that are not listed are NEVER: 400, 403, 404 (the object is gone), 413, 415, 422 (it cannot be what is asked).
_STATUSES = {
    401: Verdict.LATER,  # credentials are replaced while we run; those there are were read anew just now
    408: Verdict.AGAIN,
    409: Verdict.AGAIN,  # another writer was first: with what there is now
    425: Verdict.AGAIN,
    429: Verdict.AGAIN,
}


def verdict(error: RefusedError | UnreachableError) -> Verdict:
    """Timeouts, connections that are refused or break, and 5xx are AGAIN too."""
    if isinstance(error, UntrustedError):
        return Verdict.LATER
    if isinstance(error, UnreachableError) or error.status >= 500:
        return Verdict.AGAIN
    return _STATUSES.get(error.status, Verdict.NEVER)


class Waits(NamedTuple):
    """How long the API server is waited for: `first` for one request, and for each further attempt twice as long as
    for the one before, up to `longest` seconds between two reads; pauses between them grow from the first to the
    last of `pauses`.
    """

    first: Patience = Patience(connect=2.0, read=4.0, total=6.0)
    longest: float = 30.0
    pauses: tuple[float, float] = (0.2, 10.0)

    @classmethod
    def of(cls, seconds: float) -> Waits:
        """With so many seconds between the first two reads."""
        first = Patience(connect=seconds / 2, read=seconds, total=seconds * 1.5)
        return cls(first=first, longest=max(seconds, cls().longest))


def persist(ask: Callable[[Patience], T], *, what: str, until: float, waits: Waits, ending: threading.Event) -> T:
    """What `ask` returns, which is asked again until the moment `until`; once at least.

    A conflict with another writer is no sign of a server that is slow: those are tried again beyond `until` too.
    `ending` ends it after the attempt that runs. Raises the last attempt's RefusedError or UnreachableError.
    """
    began = time.monotonic()
    for attempt in count():
        try:
            return ask(_patience(waits, attempt, until))
        except (RefusedError, UnreachableError) as error:
            error.attempts = attempt + 1
            conflict = isinstance(error, RefusedError) and error.status == 409
            end = max(until, began + waits.first.total) if conflict else until
            pause = _pause(waits, attempt, error)
            if verdict(error) is not Verdict.AGAIN or time.monotonic() + pause >= end or ending.wait(pause):
                raise
            log.debug("%s: %s; asking again", what, error)
    raise AssertionError


def _patience(waits: Waits, attempt: int, until: float) -> Patience:
    """No more than there is left, if something is left; what any request has, if not."""
    connect, read, total = waits.first
    left = until - time.monotonic()
    if left <= 0:
        return waits.first
    longer = min(2.0**attempt, max(1.0, waits.longest / read))
    return Patience(connect, read * longer, max(connect, min(total * longer, left)))


def _pause(waits: Waits, attempt: int, error: RefusedError | UnreachableError) -> float:
    """Longer from time to time, or what the server asks for and some more: many pods wait, and are not to come
    back together.
    """
    first, most = waits.pauses
    if isinstance(error, RefusedError) and error.status == 409:
        first /= 20
    spread = random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
    asked = error.retry_after if isinstance(error, RefusedError) else None
    return max(spread * min(most, first * 2.0 ** min(attempt, 16)), (asked or 0.0) * (0.5 + spread))
