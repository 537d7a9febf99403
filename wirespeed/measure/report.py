"""The report of a measurement: what was measured, how, and the figures; as JSON and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from wirespeed import structs
from wirespeed.measure.forwarder import Forwarder
from wirespeed.measure.path import Interface
from wirespeed.measure.search import Limit, Throughput
from wirespeed.measure.trial import Latency, Trial, mbits
from wirespeed.text import table

Test = Literal["throughput", "latency", "loss"]

# RFC 2544, sections 23, 24 and 26.1: what a report says if a measurement departs from it.
RFC_TRIAL, RFC_PAUSE = 60.0, 5.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How to measure.

    `sizes` are bytes with FCS. `trial` is the length of a trial and `pause` the time between trials, in seconds.
    `resolution` is the width of the interval in which the search for the throughput ends, in percent of its upper
    end. `accepted_loss` (percent) is the loss with which a trial still passes. No trial exceeds `max_rate`
    frames/s; None: the line rate, or what the generator can send. The latency is measured at `latency_load` percent
    of the throughput.
    """

    tests: tuple[Test, ...]
    sizes: tuple[int, ...]
    trial: float
    pause: float
    resolution: float
    accepted_loss: float
    latency_load: float
    max_rate: float | None


class SizeReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The figures for one frame size; rates in frames/s.

    `generator` is the rate at which the generator sends and receives without a path in between, `line_rate` that of
    the interfaces, if they report it, and `maximum` the highest rate of all trials. A test that was not run has no
    result.
    """

    size: int
    generator: float
    line_rate: float | None
    maximum: float
    throughput: Throughput | None
    latency: Trial | None
    loss: tuple[Trial, ...]


@structs.prepared
class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A measurement. `departures` are the points in which it differs from RFC 2544, each as a sentence.

    `forwarder` is what is in the middle of the path, if it is addressed. `direct` has the figures of the same path
    without it, if they were measured.
    """

    version: str
    started: str
    machine: str
    source: Interface
    destination: Interface
    settings: Settings
    departures: tuple[str, ...]
    sizes: tuple[SizeReport, ...]
    forwarder: Forwarder | None = None
    direct: tuple[SizeReport, ...] = ()


def arguments(settings: Settings) -> list[str]:
    """Return the options of `wirespeed measure` for these settings."""
    found = [*(f"--test={each}" for each in settings.tests), *(f"--size={each}" for each in settings.sizes)]
    found += [f"--trial={settings.trial}", f"--pause={settings.pause}", f"--resolution={settings.resolution}"]
    found += [f"--accept-loss={settings.accepted_loss}", f"--latency-load={settings.latency_load}"]
    return found if settings.max_rate is None else [*found, f"--max-rate={settings.max_rate}"]


def departures(settings: Settings) -> tuple[str, ...]:
    """Return in which points a measurement differs from RFC 2544."""
    found = [
        "The frames have the EtherType 0x88B5 instead of IPv4 and UDP: the path is one of layer 2.",
        "Frames that are due at the same time are sent in bursts; see the largest burst.",
    ]
    if settings.trial < RFC_TRIAL:
        found.append(f"A trial takes {settings.trial:g} s instead of {RFC_TRIAL:g} s.")
    if settings.pause < RFC_PAUSE:
        found.append(f"The pause between two trials is {settings.pause:g} s instead of {RFC_PAUSE:g} s.")
    if settings.accepted_loss:
        found.append(
            f"A trial passes if it loses at most {settings.accepted_loss:g} % of its frames, instead of none: the "
            "rate is a partial drop rate, not a throughput."
        )
    if "latency" in settings.tests:
        found.append("All frames of one trial have a time stamp, instead of one frame in each of 20 trials.")
    if "latency" in settings.tests and settings.latency_load != 100:
        found.append(f"The latency is that at {settings.latency_load:g} % of the throughput.")
    return tuple(found)


# Tables

_LIMITS = {
    Limit.LOSS: "loss",
    Limit.INTERFACE: "sending interface",
    Limit.GENERATOR: "generator",
    Limit.MAXIMUM: "maximum rate",
}
_PLACES = ("before", "RX-missed", "TX-dropped", "after")  # the forwarder; as in Losses


def text(report: Report) -> str:
    """Return the report as text, with a table for each test."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    path = {"from": _shown(report.source), "to": _shown(report.destination)}
    if report.forwarder:
        path = {"from": path["from"], "through": str(report.forwarder), "to": path["to"]}
    width = max(map(len, path))
    yield from (f"{word.ljust(width)} {what}" for word, what in path.items())
    yield f"{report.started}, {report.machine}, wirespeed {report.version}"
    yield from _tables(report.sizes, report.settings)
    if report.direct:
        yield from ("", "Without the forwarder, from interface to interface:")
        yield from _tables(report.direct, report.settings)
    yield ""
    yield "Differences from RFC 2544:"
    yield from (f"- {each}" for each in report.departures)


def _tables(sizes: Sequence[SizeReport], settings: Settings) -> Iterator[str]:
    if "throughput" in settings.tests:
        yield from ("", "Throughput (RFC 2544, 26.1)")
        yield from _table(
            ("size", "frames/s", "Mbit/s", "of maximum", "limited by", "generator", "trials"),
            [_throughput_row(each, each.throughput) for each in sizes if each.throughput],
        )
    if "latency" in settings.tests:
        yield from ("", f"Latency in µs, at {settings.latency_load:g} % of the throughput (RFC 2544, 26.2)")
        yield from _table(
            ("size", "frames/s", "min", "p50", "p90", "p99", "p99.9", "max", "mean", "burst"),
            [
                _latency_row(each.latency, each.latency.latency)
                for each in sizes
                if each.latency and each.latency.latency
            ],
        )
    if "loss" in settings.tests:
        yield from ("", "Frame loss rate (RFC 2544, 26.3)")
        counted = any(trial.forwarded for each in sizes for trial in each.loss)
        yield from _table(
            (
                "size",
                "of maximum",
                "frames/s",
                "offered",
                "lost",
                "loss",
                "reordered",
                *(_PLACES if counted else ()),
            ),
            [_loss_row(each, trial) for each in sizes for trial in each.loss],
        )


def _shown(end: Interface) -> str:
    speed = f"{end.speed} Mbit/s" if end.speed else "speed unknown"
    place = f" in {end.netns}" if end.netns else ""
    return f"{end.name}{place} ({end.driver or 'no driver'}, {end.mac}, MTU {end.mtu}, {speed})"


def _throughput_row(size: SizeReport, found: Throughput) -> tuple[str, ...]:
    return (
        str(size.size),
        f"{found.rate:.0f}",
        f"{mbits(found.rate, size.size):.1f}",
        f"{100 * found.rate / size.maximum:.1f} %",
        _LIMITS[found.limit],
        f"{size.generator:.0f}",
        str(len(found.trials)),
    )


def _latency_row(trial: Trial, found: Latency) -> tuple[str, ...]:
    values = (found.minimum, found.p50, found.p90, found.p99, found.p999, found.maximum, found.mean)
    return (str(trial.load.size), f"{trial.offered:.0f}", *(f"{each:.1f}" for each in values), str(trial.burst))


def _loss_row(size: SizeReport, trial: Trial) -> tuple[str, ...]:
    return (
        str(size.size),
        f"{100 * trial.load.rate / size.maximum:.0f} %",
        f"{trial.load.rate:.0f}",
        f"{trial.offered:.0f}",
        str(trial.lost),
        f"{trial.loss:.3f} %",
        str(trial.reordered),
        *map(str, trial.losses or ()),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    return table([head, *rows], right=range(len(head)))
