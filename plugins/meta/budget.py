"""Divides the time of an ADD, so that a slow API server leaves enough for attaching."""

from __future__ import annotations

import time
from typing import NamedTuple

from wirespeed.cni.request import Request

_ATTACH_SHARE = 1 / 3  # share of the time that stays for attaching after slow reads
_ANSWER_TIME = 2.0  # seconds before the deadline at which the call answers,
_ANSWER_SHARE = 0.1  # or this share of the time, whichever is less


class Budget(NamedTuple):
    """time.monotonic() values. Undoing a failed ADD has additional time after the deadline."""

    read: float  # end of reading pod, networks and claims
    report: float  # end of writing network-status; after that it is deferred and the call succeeds


def of(request: Request, *, at_most: float) -> Budget:
    """Divide the time until the request's deadline, at most `at_most` seconds."""
    now = time.monotonic()
    left = max(0.0, min(request.deadline - now, at_most))
    return Budget(
        read=now + left * (1 - _ATTACH_SHARE),
        report=now + left - min(_ANSWER_TIME, left * _ANSWER_SHARE),
    )
