"""Retrying requests to the API server: the table of failures that are retried, and the loop that does it."""

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
    """Whether to repeat a failed request."""

    AGAIN = "soon it may be answered"
    LATER = "not before something else has changed, which is for whoever can wait for that"
    NEVER = "it would be answered alike"


# Other 4xx are NEVER: 400, 403, 404 (the object is gone), 413, 415, 422 (the object would be invalid).
_STATUSES = {
    401: Verdict.LATER,  # credentials are replaced at run time, but the current ones were just reloaded
    408: Verdict.AGAIN,
    409: Verdict.AGAIN,  # another writer was first: the next attempt uses the new version
    425: Verdict.AGAIN,
    429: Verdict.AGAIN,
}


def verdict(error: RefusedError | UnreachableError) -> Verdict:
    """Return the verdict on a failure. Timeouts, refused or broken connections, and 5xx are AGAIN too."""
    if isinstance(error, UntrustedError):
        return Verdict.LATER
    if isinstance(error, UnreachableError) or error.status >= 500:
        return Verdict.AGAIN
    return _STATUSES.get(error.status, Verdict.NEVER)


class Waits(NamedTuple):
    """Timeouts of requests to the API server: `first` are those of the first attempt. Each further attempt waits
    twice as long, up to `longest` seconds between two reads. The pauses between attempts grow from the first to the
    second value of `pauses`, in seconds.
    """

    first: Patience = Patience(connect=2.0, read=4.0, total=6.0)
    longest: float = 30.0
    pauses: tuple[float, float] = (0.2, 10.0)

    @classmethod
    def of(cls, seconds: float) -> Waits:
        """Return waits whose first attempt allows so many seconds between two reads."""
        first = Patience(connect=seconds / 2, read=seconds, total=seconds * 1.5)
        return cls(first=first, longest=max(seconds, cls().longest))


def persist(ask: Callable[[Patience], T], *, what: str, until: float, waits: Waits, ending: threading.Event) -> T:
    """Call `ask`, at least once, and retry it until the moment `until`; return its result.

    A conflict with another writer is retried beyond `until` too, for the time of one request, as it is no sign of
    a slow server. If `ending` is set, there are no further attempts. Raises the last attempt's RefusedError or
    UnreachableError.
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
    """Return the timeouts of an attempt, limited to the time until `until`; `first` if that has passed."""
    connect, read, total = waits.first
    left = until - time.monotonic()
    if left <= 0:
        return waits.first
    longer = min(2.0**attempt, max(1.0, waits.longest / read))
    return Patience(connect, read * longer, max(connect, min(total * longer, left)))


def _pause(waits: Waits, attempt: int, error: RefusedError | UnreachableError) -> float:
    """Return the pause before the next attempt: longer each time, and not shorter than the server requests. It is
    partly random, so that the many pods that wait do not retry at the same time.
    """
    first, most = waits.pauses
    if isinstance(error, RefusedError) and error.status == 409:
        first /= 20
    spread = random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
    asked = error.retry_after if isinstance(error, RefusedError) else None
    return max(spread * min(most, first * 2.0 ** min(attempt, 16)), (asked or 0.0) * (0.5 + spread))
