"""The steps of a call: what was done, in which order, how long each step took, and where it failed.

A call is traced if its thread runs in `tracing`; otherwise a step costs one lookup. Rooms mark their steps:

    with step("move into the pod", device="0000:18:02.0"):
        ...

The names are for users: `wirespeed why`, logs and exported traces show them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import msgspec

from wirespeed.errors import Error

ROOT = -1  # the parent of a step that is not part of another


class Step(msgspec.Struct, omit_defaults=True):
    """A step; `began` is in seconds since the beginning of the trace. While it runs, `seconds` is negative."""

    name: str
    began: float
    seconds: float = -1.0
    parent: int = ROOT
    """the index of the step that it is part of"""
    about: dict[str, str] = {}
    """what it is about: network, device, plugin ..."""
    error: str = ""
    """the error that ended it"""

    @property
    def title(self) -> str:
        """Its name and what it is about: "attach network=default/left device=0000:18:02.1"."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.about.items() if value)])


def depth(steps: Sequence[Step], step: Step) -> int:
    """Return in how many others of the steps a step is."""
    found = 0
    while step.parent != ROOT:
        step = steps[step.parent]
        found += 1
    return found


class Trace:
    """The steps of one call, in the order in which they began.

    `id` has 32 hexadecimal digits, as the trace id of W3C Trace Context; `at` is the time of the beginning, in
    seconds since 1970, and `began` the same moment as time.monotonic(). `pod` is the call's pod, namespace/name,
    and `uid` the pod's; both are "" if the call has none, or while it is not known.
    """

    __slots__ = ("_inside", "at", "began", "id", "pod", "steps", "uid")

    def __init__(self, began: float, *, pod: str = "", uid: str = "") -> None:
        self.id = os.urandom(16).hex()
        self.began = began
        self.pod, self.uid = pod, uid
        self.at = time.time() - (time.monotonic() - began)
        self.steps: list[Step] = []
        self._inside = ROOT

    def add(self, name: str, began: float, ended: float) -> None:
        """Add a step that is over; the times are time.monotonic() values."""
        self.steps.append(Step(name, began - self.began, ended - began, self._inside))

    def current(self) -> list[Step]:
        """Return the steps that are running, the outermost first; from any thread."""
        return [each for each in list(self.steps) if each.seconds < 0]


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """Collect the steps of this thread in `trace` while the body runs."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)


def name_pod(pod: str, uid: str) -> None:
    """Set the pod (namespace/name, and its UID) that the current call turns out to be for."""
    trace = _trace.get()
    if trace is not None:
        trace.pod, trace.uid = pod, uid


def trace_id() -> str:
    """Return the id of the current trace, "" without one."""
    trace = _trace.get()
    return "" if trace is None else trace.id


class step:  # noqa: N801 — a context manager that is used like a function; a generator would take thrice the time
    """Mark the body as a step of the current trace; an exception that leaves it is the step's error."""

    __slots__ = ("_about", "_name", "_step", "_trace")

    def __init__(self, name: str, **about: str) -> None:
        self._name, self._about = name, about

    def __enter__(self) -> Self:
        trace = self._trace = _trace.get()
        if trace is not None:
            self._step = Step(
                self._name,
                time.monotonic() - trace.began,
                parent=trace._inside,
                about=self._about,
            )
            trace._inside = len(trace.steps)
            trace.steps.append(self._step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        trace = self._trace
        if trace is not None:
            self._step.seconds = time.monotonic() - trace.began - self._step.began
            trace._inside = self._step.parent
            if error is not None:
                self._step.error = error.msg if isinstance(error, Error) else f"{type(error).__name__}: {error}"
