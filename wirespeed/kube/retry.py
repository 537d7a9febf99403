"""Retrying requests to the API server: which failures are retried, and the loop that does it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, TypeVar

from wirespeed.kube.api import RefusedError, Timeouts, UnreachableError, UntrustedError

log = logging.getLogger(__name__)

T = TypeVar("T")


# 409: another writer was first, and the next attempt uses the new version. Not 401: the credentials were just
# reloaded. Other 4xx would get the same answer: 400, 403, 404 (the object is gone), 422 (it would be invalid).
_RETRIED = frozenset({408, 409, 425, 429})


def may_succeed_soon(error: RefusedError | UnreachableError) -> bool:
    """Whether to repeat a failed request: after timeouts, refused or broken connections, 5xx and some of 4xx."""
    if isinstance(error, RefusedError):
        return error.status >= 500 or error.status in _RETRIED
    return not isinstance(error, UntrustedError)  # until the certificates have changed: left to the caller


class RetryPolicy(NamedTuple):
    """Timeouts of requests to the API server: `first` are those of the first attempt. Each further attempt waits
    twice as long, up to `longest` seconds between two reads. The pauses between attempts grow from the first to the
    second value of `pauses`, in seconds.
    """

    first: Timeouts = Timeouts(connect=2.0, read=4.0, total=6.0)
    longest: float = 30.0
    pauses: tuple[float, float] = (0.2, 10.0)

    @classmethod
    def of(cls, seconds: float) -> RetryPolicy:
        """Return the policy whose first attempt allows so many seconds between two reads."""
        first = Timeouts(connect=seconds / 2, read=seconds, total=seconds * 1.5)
        return cls(first=first, longest=max(seconds, cls().longest))


def with_retries(
    request: Callable[[Timeouts], T], *, what: str, until: float, policy: RetryPolicy, stopped: threading.Event
) -> T:
    """Call `request`, at least once, and retry it until the moment `until`; return its result.

    A conflict with another writer is retried beyond `until` too, for the time of one request, as it is no sign of
    a slow server. If `stopped` is set, there are no further attempts. Raises the last attempt's error.
    """
    start = time.monotonic()
    for attempt in count():
        try:
            return request(_timeouts(policy, attempt, until))
        except (RefusedError, UnreachableError) as error:
            error.attempts = attempt + 1
            conflict = isinstance(error, RefusedError) and error.status == 409
            end = max(until, start + policy.first.total) if conflict else until
            pause = _pause(policy, attempt, error)
            if not may_succeed_soon(error) or time.monotonic() + pause >= end or stopped.wait(pause):
                raise
            log.debug("%s: %s; retrying", what, error)
    raise AssertionError


def _timeouts(policy: RetryPolicy, attempt: int, until: float) -> Timeouts:
    """Return the timeouts of an attempt, limited to the time until `until`; `first` if that has passed."""
    connect, read, total = policy.first
    left = until - time.monotonic()
    if left <= 0:
        return policy.first
    longer = min(2.0**attempt, max(1.0, policy.longest / read))
    return Timeouts(connect, read * longer, max(connect, min(total * longer, left)))


def _pause(policy: RetryPolicy, attempt: int, error: RefusedError | UnreachableError) -> float:
    """Return the pause before the next attempt: longer each time, and not shorter than the server requests. It is
    partly random, so that the many pods that wait do not retry at the same time.
    """
    first, most = policy.pauses
    if isinstance(error, RefusedError) and error.status == 409:
        first /= 20
    spread = random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing
    asked = error.retry_after if isinstance(error, RefusedError) else None
    return max(spread * min(most, first * 2.0 ** min(attempt, 16)), (asked or 0.0) * (0.5 + spread))
