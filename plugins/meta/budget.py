"""How the time of a call that attaches networks is divided, where the API server is slow."""

from __future__ import annotations

import time
from typing import NamedTuple

from wirespeed.cni.request import Request

_FOR_ATTACHING = 1 / 3  # of the time: what reading leaves, however late it ends
_FOR_THE_ANSWER = 2.0  # seconds before the deadline, or
_SHARE_OF_THE_ANSWER = 0.1  # of the time, if that is less


class Budget(NamedTuple):
    """Moments, as time.monotonic() tells them. Undoing has time of its own, after the deadline."""

    read: float  # until when pod, networks and claims are asked for
    report: float  # until when network-status is written, before the call succeeds without


def of(request: Request, *, at_most: float) -> Budget:
    """Of the time until the request's deadline, or `at_most` so many seconds where that has none."""
    now = time.monotonic()
    left = max(0.0, min(request.deadline - now, at_most))
    return Budget(
        read=now + left * (1 - _FOR_ATTACHING),
        report=now + left - min(_FOR_THE_ANSWER, left * _SHARE_OF_THE_ANSWER),
    )
