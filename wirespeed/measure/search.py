"""The searches of RFC 2544: the throughput (section 26.1), and the frame loss rate at falling rates (26.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import msgspec

from wirespeed.measure.trial import Outcome, Trial

Run = Callable[[float], Trial]  # runs a trial at a rate (frames/s)

FLOOR = 0.001  # of the maximum rate: a lower throughput counts as none
LOSS_STEP = 10  # percent of the maximum rate: the largest granularity that section 26.3 allows


class Limit(Enum):
    """Why the throughput is not higher."""

    LOSS = "loss"  # the path loses frames at a higher rate
    INTERFACE = "interface"  # the sending interface does not accept a higher rate
    GENERATOR = "generator"  # the measurement's own sender or receiver is not faster; the path may be
    MAXIMUM = "maximum"  # no higher rate was tried: the line rate, or the highest rate that was asked for


class Throughput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The highest rate (frames/s) at which a trial passed, as it was sent; 0 if none did.

    `limit` is from the lowest failed trial, `first_failed` the rate of that trial, None if none failed.
    """

    rate: float
    limit: Limit
    first_failed: float | None
    trials: tuple[Trial, ...]


def throughput(
    run: Run, *, maximum: float, resolution: float, accepted_loss: float = 0.0, generator: float = math.inf
) -> Throughput:
    """Search the highest rate at which a trial loses no frame, or at most `accepted_loss` percent.

    The first trial is at `maximum` frames/s. If it fails, the interval between the highest rate that passed and
    the lowest that failed is halved until it is no wider than the share `resolution` of its upper end. A throughput
    below the share FLOOR of the maximum is not searched: it is 0. `trial_count` tells how many trials this takes at
    most. `generator` is the rate that the generator can reach.
    """
    low, high = 0.0, maximum
    trials = [run(maximum)]
    passed: Trial | None = None
    failed: Trial | None = None
    if trials[0].outcome(accepted_loss) is Outcome.PASSED:
        passed = trials[0]
    else:
        failed = trials[0]
    while failed and high - low > resolution * high and high > FLOOR * maximum:
        trial = run((low + high) / 2)
        trials.append(trial)
        if trial.outcome(accepted_loss) is Outcome.PASSED:
            low, passed = trial.load.rate, trial
        else:
            high, failed = trial.load.rate, trial
    limit = _limit(failed, accepted_loss, generator) if failed else _limit_of_maximum(maximum, generator)
    return Throughput(
        rate=min(passed.offered, passed.load.rate) if passed else 0.0,
        limit=limit,
        first_failed=failed.load.rate if failed else None,
        trials=tuple(trials),
    )


def trial_count(resolution: float) -> int:
    """Return how many trials a search takes at most."""
    return 2 + math.ceil(math.log2(1 / (FLOOR * resolution)))


# A sender that reaches this share of the generator's own limit is held up by the machine, not by its interface.
_NEAR = 0.8


def _limit(failed: Trial, accepted_loss: float, generator: float) -> Limit:
    match failed.outcome(accepted_loss):
        case Outcome.LOST:
            return Limit.LOSS
        case Outcome.NOT_READ:
            return Limit.GENERATOR
        case _:
            held_up = failed.offered >= _NEAR * generator or failed.was_starved
            return Limit.GENERATOR if held_up else Limit.INTERFACE


def _limit_of_maximum(maximum: float, generator: float) -> Limit:
    return Limit.GENERATOR if maximum >= generator else Limit.MAXIMUM


def loss_rates(run: Run, *, maximum: float) -> tuple[Trial, ...]:
    """Run trials at 100 %, 90 %, ... of `maximum` frames/s, until two in succession lose no frame."""
    trials: list[Trial] = []
    for percent in range(100, 0, -LOSS_STEP):
        trials.append(run(maximum * percent / 100))
        if len(trials) > 1 and not any(each.lost for each in trials[-2:]):
            break
    return tuple(trials)
