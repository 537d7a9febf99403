"""A finding: a line of a file and what is wrong there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from wirespeed.cli.checks.places import Place
from wirespeed.cli.checks.problems import NOTHING, Problem, Repairs, examine


@dataclass(frozen=True)
class Finding:
    """Errors are what the reader rejects; warnings are what may have another effect than intended."""

    line: int
    error: bool
    text: str

    @classmethod
    def of(cls, problem: Problem, place: Place, *, error: bool | None = None) -> Finding:
        """Return the finding for a problem in the value at `place`; `error` overrides the problem's severity."""
        line = place.at(problem.steps).line
        return cls(line, problem.error if error is None else error, problem.fault.msg)


def findings_of(
    read: Callable[[Any], object],
    value: Any,
    place: Place,
    *,
    repairs: Repairs = NOTHING,
    leave_out: Collection[str] = (),
) -> Iterator[Finding]:
    """Yield a finding for each problem that the reader has with the value at `place` (see `examine`)."""
    for problem in examine(read, value, repairs=repairs, leave_out=leave_out).problems:
        yield Finding.of(problem, place)
