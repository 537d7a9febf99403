"""Find all problems of a value with a reader that stops at the first one: repair a copy, and read it again."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from wirespeed.errors import Error, Kind, PathStep, flatten, parse_path
from wirespeed.plugins.meta import config as meta_config

Path = tuple[PathStep, ...]

_MOST = 100  # problems reported per value


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value, and the steps to it as far as it exists. With `error` false it is a warning."""

    fault: Error
    steps: tuple[PathStep, ...]
    error: bool = True

    @classmethod
    def of(cls, fault: Error, value: Any, *, error: bool = True) -> Problem:
        """Return the problem of a value that an error is about."""
        return cls(fault, locate(value, fault.path)[0], error=error)


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """How a problem is repaired, so that the reader gets to the next one.

    A key gets its value from `keys`, or else is removed. A list element is replaced by the value in `elements` for
    the list's key ("" if the whole value is the list), or else the list is removed.
    """

    keys: Mapping[str, Any]
    elements: Mapping[str, Any]


NOTHING = Repairs(keys={}, elements={})


@dataclass(frozen=True)
class Outcome:
    """The problems found, and the value with all of them repaired as far as possible."""

    problems: list[Problem]
    value: Any


def examine(
    run: Callable[[Any], object], value: Any, *, repairs: Repairs = NOTHING, leave_out: Collection[str] = ()
) -> Outcome:
    """Collect the Errors that `run` raises for the value and the warnings it logs, without places in `leave_out`:
    the finding's line already shows them.

    Problems that are only a consequence of an earlier one are left out. If `run` reports several errors at once, it
    has found all of them, so nothing is repaired.
    """
    value = copy.deepcopy(value)
    found: list[Problem] = []
    repaired: set[Path] = set()
    for _ in range(_MOST):
        errors: list[Error] = []
        meta_config.forget_warned()  # warn() reports each text once per process
        with _warnings() as warnings:
            try:
                run(value)
            except Error as error:
                errors = list(flatten(error))
        steps: Path = ()
        missing: PathStep | None = None
        for each in (*warnings, *errors):
            fault = each.at(where=[place for place in each.where if str(place) not in leave_out])
            steps, missing = locate(value, fault.path)
            is_known = any(fault.msg == other.fault.msg for other in found)
            if not is_known and not _is_consequence(fault, steps, missing, repaired):
                found.append(Problem(fault, steps, error=each in errors))
        if len(errors) != 1 or not _repair(value, steps, missing, repairs, repaired):
            break
    return Outcome(found, value)


@contextmanager
def _warnings() -> Iterator[list[Error]]:
    """Capture the warnings logged meanwhile, instead of their normal output."""
    found: list[Error] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            argument = record.args[0] if isinstance(record.args, tuple) and record.args else None
            found.append(
                argument if isinstance(argument, Error) else Error(Kind.INVALID_CONFIG, record.getMessage())
            )

    root = logging.getLogger()
    before, root.handlers = root.handlers, [Handler(logging.WARNING)]
    try:
        yield found
    finally:
        root.handlers = before


def locate(value: Any, path: Path) -> tuple[Path, PathStep | None]:
    """Return the steps of the path as far as it exists, spelled as there, and the first step that does not."""
    steps: list[PathStep] = []
    for wanted in path:
        step = _step(value, wanted)
        if step is None:
            return tuple(steps), wanted
        value = value[step]
        steps.append(step)
    return tuple(steps), None


def _step(value: Any, wanted: PathStep) -> PathStep | None:
    """Return the matching key or index of the value. Keys may differ in case and hyphens, as for some readers."""
    if isinstance(value, list):
        return wanted if isinstance(wanted, int) and wanted < len(value) else None
    if not isinstance(value, dict) or wanted in value:
        return wanted if isinstance(value, dict) else None
    return next((key for key in value if _plain(key) == _plain(wanted)), None)


def _plain(key: object) -> str:
    return str(key).lower().replace("-", "")


def _is_consequence(fault: Error, steps: Path, missing: PathStep | None, repaired: set[Path]) -> bool:
    """Return whether the error is about something that has been repaired, or about a key that depends on that."""
    here = _fold(steps)
    if here in repaired or (missing is not None and _fold((*steps, missing)) in repaired):
        return True
    if missing is None and steps and isinstance(steps[-1], int) and any(path[:-1] == here for path in repaired):
        return True  # about an element from which the wrong part was removed
    for name in map(parse_path, fault.things("key")):
        if any(_fold(path) in repaired for path in ((*steps[:-1], *name), (*steps, *name), name)):
            return True
    return False


def _fold(steps: Path) -> Path:
    return tuple(step if isinstance(step, int) else step.lower() for step in steps)


def _repair(value: Any, steps: Path, missing: PathStep | None, repairs: Repairs, repaired: set[Path]) -> bool:
    """Repair the value at `steps`, or add the missing key. Return whether that was possible."""
    # If it was repaired already, that did not help: remove the list around it.
    if _fold(steps if missing is None else (*steps, missing)) in repaired:
        missing, steps = None, _list_around(steps)
    holder = reduce(getitem, steps, value)
    if isinstance(missing, str) and missing in repairs.keys and isinstance(holder, dict):
        holder[missing] = copy.deepcopy(repairs.keys[missing])
        repaired.add(_fold((*steps, missing)))
        return True
    while steps and isinstance(steps[-1], int):
        owner = str(steps[-2]) if len(steps) > 1 else ""
        holder = reduce(getitem, steps[:-1], value)
        replacement = _element(holder[steps[-1]], repairs.elements.get(owner))
        if replacement is not None and holder[steps[-1]] != replacement:
            holder[steps[-1]] = replacement
            return True
        steps = steps[:-1]
    if not steps:
        return False
    key = steps[-1]
    holder = reduce(getitem, steps[:-1], value)
    repaired.add(_fold(steps))
    replacement = repairs.keys.get(str(key))
    if replacement is not None and holder[key] != replacement:
        holder[key] = copy.deepcopy(replacement)
    else:
        del holder[key]
    return True


def _list_around(steps: Path) -> Path:
    """Return the steps to the innermost list on the way; empty if there is none."""
    last = max((index for index, step in enumerate(steps) if isinstance(step, int)), default=0)
    return steps[:last]


def _element(value: Any, replacement: Any) -> Any:
    """Return the replacement of a wrong element. It keeps its name, since others may refer to it."""
    if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(replacement, dict):
        return {"name": value["name"], **copy.deepcopy(replacement)}
    return copy.deepcopy(replacement)
