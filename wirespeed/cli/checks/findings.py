"""What was found: a line of a file, and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass

from wirespeed.cli.checks.places import Place
from wirespeed.cli.checks.problems import Problem


@dataclass(frozen=True)
class Finding:
    """An error is what would be refused, a warning what has another effect than its author may think."""

    line: int
    error: bool
    text: str

    @classmethod
    def of(cls, problem: Problem, place: Place, *, error: bool | None = None) -> Finding:
        """The problem of the value at `place`; `error` overrides what the problem says."""
        return cls(place.at(problem.steps).line, problem.error if error is None else error, problem.text)
