"""A finding: a line of a file and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass

from wirespeed.cli.checks.places import Place
from wirespeed.cli.checks.problems import Problem


@dataclass(frozen=True)
class Finding:
    """Errors are what the reader rejects; warnings are what may have another effect than intended."""

    line: int
    error: bool
    text: str

    @classmethod
    def of(cls, problem: Problem, place: Place, *, error: bool | None = None) -> Finding:
        """Return the finding for a problem in the value at `place`; `error` overrides the problem's severity."""
        return cls(place.at(problem.steps).line, problem.error if error is None else error, problem.text)
