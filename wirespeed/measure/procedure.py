"""The procedure of a measurement: for each frame size the limit of the generator, and then the tests."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from typing import Protocol

import wirespeed
from wirespeed.errors import Error, Kind
from wirespeed.measure.forwarder import Forwarder
from wirespeed.measure.path import Interface
from wirespeed.measure.report import Report, Settings, SizeReport, departures
from wirespeed.measure.search import Throughput, loss_rates, throughput
from wirespeed.measure.trial import Load, Outcome, Trial
from wirespeed.text import clock

_UNPACED = 1e9  # frames/s: more than any sender reaches, so it never waits
_FIRST_GUESS = 20_000  # frames of the first trial on the loopback interface
_LIMIT_TRIAL = 1.0  # seconds
_FAR = 10  # times the highest rate that is asked for: then the generator's limit need not be known exactly
_REPEATS = 2  # of a trial that shows nothing about the path

Note = Callable[[str], None]


class Runs(Protocol):
    """What the procedure needs of a path; see path.MeasuredPath."""

    source: Interface
    destination: Interface
    forwarder: Forwarder | None

    def run(self, load: Load, *, latency: bool = False) -> Trial: ...
    def line_rate(self, size: int) -> float | None: ...
    def largest(self) -> int: ...


def measure(
    path: Runs, alone: Runs, settings: Settings, *, note: Note, sleep: Callable[[float], None] = time.sleep
) -> Report:
    """Measure a path; `alone` is the path without anything in between, on which the generator's limit is found.

    `note` gets a line after each trial. Raises Error.
    """
    if too_large := [size for size in settings.sizes if size > path.largest()]:
        expected = f"at most {path.largest()} bytes, by the MTU of both interfaces"
        raise Error(Kind.INVALID_REQUEST, "frames are too large", expected=expected, got=max(too_large))
    started = clock(time.time())
    measuring = _Measuring(path, alone, settings, note, sleep)
    return Report(
        version=wirespeed.__version__,
        started=started,
        machine=_machine(),
        source=path.source,
        destination=path.destination,
        forwarder=path.forwarder,
        settings=settings,
        departures=departures(settings),
        sizes=tuple(measuring.size(each) for each in settings.sizes),
    )


class _Measuring:
    def __init__(
        self, path: Runs, alone: Runs, settings: Settings, note: Note, sleep: Callable[[float], None]
    ) -> None:
        self._path, self._alone, self._settings = path, alone, settings
        self._note, self._sleep = note, sleep
        self._first = True

    def size(self, size: int) -> SizeReport:
        settings, tests = self._settings, self._settings.tests
        generator = self._generator(size)
        line_rate = self._path.line_rate(size)
        maximum = min(filter(None, (generator, line_rate, settings.max_rate)))
        found: Throughput | None = None
        if "throughput" in tests or "latency" in tests:
            found = throughput(
                lambda rate: self._valid_trial("throughput", size, rate),
                maximum=maximum,
                resolution=settings.resolution / 100,
                accepted_loss=settings.accepted_loss,
                generator=generator,
            )
        latency = None
        if "latency" in tests and found and found.rate:
            latency = self._valid_trial("latency", size, found.rate * settings.latency_load / 100)
        loss: tuple[Trial, ...] = ()
        if "loss" in tests:
            loss = loss_rates(lambda rate: self._trial("loss", size, rate), maximum=maximum)
        return SizeReport(
            size=size,
            generator=generator,
            line_rate=line_rate,
            maximum=maximum,
            throughput=found,
            latency=latency,
            loss=loss,
        )

    def _generator(self, size: int) -> float:
        """Return the frames/s that sender and receiver manage on the loopback interface, for _LIMIT_TRIAL seconds.

        The first trial is short, and tells how many frames the second one needs. If it shows that no trial of the
        path comes near the limit, it is enough.
        """
        found = self._unpaced(size, _FIRST_GUESS)
        if found < _FAR * (self._settings.max_rate or math.inf):
            found = self._unpaced(size, max(_FIRST_GUESS, round(found * _LIMIT_TRIAL)))
        self._note(f"{size} bytes: the generator alone reaches {found:.0f} frames/s")
        return found

    def _unpaced(self, size: int, frames: int) -> float:
        trial = self._alone.run(Load(size=size, rate=_UNPACED, seconds=frames / _UNPACED))
        return trial.received / trial.elapsed

    def _valid_trial(self, test: str, size: int, rate: float) -> Trial:
        """Run a trial; repeat it if the machine held up the sender or the receiver, as it may under other load."""
        for _ in range(_REPEATS):
            if not (trial := self._trial(test, size, rate)).void:
                return trial
        return self._trial(test, size, rate)

    def _trial(self, test: str, size: int, rate: float) -> Trial:
        if not self._first:
            self._sleep(self._settings.pause)
        self._first = False
        trial = self._path.run(Load(size=size, rate=rate, seconds=self._settings.trial), latency=test == "latency")
        self._note(f"{size} bytes, {test}: {rate:.0f} frames/s: {_told(trial)}")
        return trial


def _told(trial: Trial) -> str:
    match trial.outcome():
        case Outcome.LOST:
            return f"{trial.lost} of {trial.sent} frames lost ({trial.loss:.3f} %){_places(trial)}"
        case Outcome.NOT_READ:
            return f"no loss, but {trial.unread} frames were not read in time"
        case Outcome.NOT_SENT:
            starved = f"; the sender waited {1000 * trial.starved:.0f} ms for a CPU" if trial.starved else ""
            return f"no loss, but only {trial.offered:.0f} frames/s were sent{starved}"
        case Outcome.PASSED:
            return "no loss"


def _places(trial: Trial) -> str:
    """Return where frames were lost, as the forwarder in the path counted them."""
    if not (found := trial.losses):
        return ""
    places = f"{found.before} before the forwarder, {found.missed} RX-missed and {found.dropped} TX-dropped in it"
    return f": {places}, {found.after} after it"


def _machine() -> str:
    uname = platform.uname()
    return f"{os.cpu_count()} CPUs, {uname.machine}, Linux {uname.release}"
