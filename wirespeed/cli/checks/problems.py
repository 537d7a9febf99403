"""Find all problems of a value with code that stops at the first: repair that one in a copy, and run it again."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wirespeed.cli.checks.places import Step
from wirespeed.cni.errors import CniError
from wirespeed.plugins.meta import config as meta_config

_MOST = 100  # problems reported per value

# How messages name the place of a problem.
_WHERE = re.compile(
    r"""keys?\ "(?P<key>[^"]+)"
      | unknown\ key\ "(?P<unknown>[^"]+)"
      | asks\ for\ "(?P<capability>[^"]+)"
      | ,\ "(?P<inner>\w+)":
      | (?:unknown|missing\ required)\ field\ `(?P<field>[^`]+)`
      | at\ `\$\.?(?P<place>[^`]+)`
      | \b(?:element|mapping)\ (?P<number>\d+)
      | \b(?P<path>ipam(?:\[\d+\]|\.\w+)*(?=:)
          | (?:plugins|delegates|resourceList)\[\d+\](?:\[\d+\]|\.\w+|\["[^"]*"\])*
          | spec(?:(?:\.\w+|\[\d+\])+|(?=:)))""",
    re.VERBOSE,
)
_STEP = re.compile(r'\[(?P<index>\d+)\]|\["(?P<quoted>[^"]*)"\]|(?P<key>[^.\[\]]+)')
_NEAREST = "; nearest known key: "  # what follows is a suggestion (wirespeed.cni.keys)
_MENTIONED = re.compile(r'["`]([^"`\s]+)["`]')


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value that `steps` lead to. With `error` false it is a warning."""

    text: str
    steps: tuple[Step, ...] = ()
    error: bool = True


@dataclass(frozen=True, kw_only=True)
class Mending:
    """How a problem is repaired so that the next one shows.

    A key gets its value from `keys`, or else is removed. A list element is replaced by the value in `elements` for
    the list's key ("" if the whole value is the list), or else the list is removed.
    """

    keys: Mapping[str, Any]
    elements: Mapping[str, Any]


NOTHING = Mending(keys={}, elements={})


@dataclass(frozen=True)
class Outcome:
    """The problems found, and the value with all of them repaired as far as possible."""

    problems: list[Problem]
    value: Any


def examine(
    run: Callable[[Any], object],
    value: Any,
    *,
    mending: Mending = NOTHING,
    reword: Callable[[str], str] = lambda text: text,
    split: Callable[[str], list[str]] | None = None,
) -> Outcome:
    """Collect the CniErrors that `run` raises for the value and the warnings it logs; `reword` edits the messages.

    Messages that only follow from an earlier problem are left out. With `split`, which takes a message apart, `run`
    reports everything in one message, so nothing is repaired.
    """
    value = copy.deepcopy(value)
    found: list[Problem] = []
    mended: set[tuple[Step, ...]] = set()
    for _ in range(_MOST):
        error, warnings = _outcome(run, value)
        errors = [] if error is None else [error] if split is None else split(error)
        steps: tuple[Step, ...] = ()
        missing = ""
        for text, is_error in [(reword(text), text in errors) for text in (*warnings, *errors)]:
            steps, missing = locate(value, text)
            if not _follows(text, steps, missing, mended) and not any(problem.text == text for problem in found):
                found.append(Problem(text, steps, error=is_error))
        if error is None or split or not _mend(value, steps, missing, mending, mended):
            break
    return Outcome(found, value)


def without(*prefixes: str) -> Callable[[str], str]:
    """Return a function that removes these prefixes from messages: the finding's line already shows the place."""
    return lambda text: text[max((len(each) for each in prefixes if text.startswith(each)), default=0) :]


def _outcome(run: Callable[[Any], object], value: Any) -> tuple[str | None, list[str]]:
    meta_config.warn.cache_clear()  # warn() reports each text once per process
    with _warnings() as warnings:
        try:
            run(value)
        except CniError as error:
            return error.msg, warnings
    return None, warnings


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Capture the warnings logged meanwhile, instead of their normal output."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    root = logging.getLogger()
    before, root.handlers = root.handlers, [Handler(logging.WARNING)]
    try:
        yield found
    finally:
        root.handlers = before


def locate(value: Any, text: str) -> tuple[tuple[Step, ...], str]:
    """Return the steps to what the message names, as far as it exists, and the first key that does not, or ""."""
    steps: list[Step] = []
    for match in _WHERE.finditer(text):
        named = next(part for part in match.groups() if part)
        literal = match.lastgroup == "unknown" and _step(value, named) is not None
        for wanted in [named] if literal else _split(named, number=match.lastgroup == "number"):
            step = _step(value, wanted)
            if step is None:
                return tuple(steps), str(wanted)
            value = value[step]
            steps.append(step)
    return tuple(steps), ""


def _split(named: str, *, number: bool) -> list[Step]:
    if number:
        return [int(named) - 1]
    return [
        int(match["index"]) if match["index"] else match["quoted"] or match["key"]
        for match in _STEP.finditer(named)
    ]


def _step(value: Any, wanted: Step) -> Step | None:
    """Return the matching key or index of the value. Keys may differ in case and hyphens, as for some readers."""
    if isinstance(value, list):
        return wanted if isinstance(wanted, int) and wanted < len(value) else None
    if not isinstance(value, dict) or wanted in value:
        return wanted if isinstance(value, dict) else None
    return next((key for key in value if _plain(key) == _plain(wanted)), None)


def _plain(key: object) -> str:
    return str(key).lower().replace("-", "")


def _follows(text: str, steps: tuple[Step, ...], missing: str, mended: set[tuple[Step, ...]]) -> bool:
    """Return whether the message is about, or mentions, something that has been repaired."""
    here = _folded(steps)
    if here in mended or (missing and _folded((*steps, missing)) in mended):
        return True
    if not missing and steps and isinstance(steps[-1], int) and any(path[:-1] == here for path in mended):
        return True  # about an element from which the wrong part was removed
    for name in _MENTIONED.findall(text.partition(_NEAREST)[0]):
        paths = [(*steps[:-1], name), (*steps, name), tuple(_split(name, number=False))]
        if any(_folded(path) in mended for path in paths):
            return True
    return False


def _folded(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(step if isinstance(step, int) else step.lower() for step in steps)


def _mend(
    value: Any, steps: tuple[Step, ...], missing: str, mending: Mending, mended: set[tuple[Step, ...]]
) -> bool:
    """Repair the value at `steps`, or add the missing key. Return whether that was possible."""
    if _folded((*steps, missing) if missing else steps) in mended:  # that did not help: remove the list around it
        missing, steps = "", _list_around(steps)
    holder = _follow(value, steps)
    if missing in mending.keys and isinstance(holder, dict):
        holder[missing] = copy.deepcopy(mending.keys[missing])
        mended.add(_folded((*steps, missing)))
        return True
    while steps and isinstance(steps[-1], int):
        owner = str(steps[-2]) if len(steps) > 1 else ""
        holder = _follow(value, steps[:-1])
        instead = _element(holder[steps[-1]], mending.elements.get(owner))
        if instead is not None and holder[steps[-1]] != instead:
            holder[steps[-1]] = instead
            return True
        steps = steps[:-1]
    if not steps:
        return False
    key = steps[-1]
    holder = _follow(value, steps[:-1])
    mended.add(_folded(steps))
    instead = mending.keys.get(str(key))
    if instead is not None and holder[key] != instead:
        holder[key] = copy.deepcopy(instead)
    else:
        del holder[key]
    return True


def _list_around(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps to the innermost list on the way; empty if there is none."""
    last = max((index for index, step in enumerate(steps) if isinstance(step, int)), default=0)
    return steps[:last]


def _element(value: Any, instead: Any) -> Any:
    """Return the replacement of a wrong element. It keeps its name, since others may refer to it."""
    if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(instead, dict):
        return {"name": value["name"], **copy.deepcopy(instead)}
    return copy.deepcopy(instead)


def _follow(value: Any, steps: tuple[Step, ...]) -> Any:
    for step in steps:
        value = value[step]
    return value
