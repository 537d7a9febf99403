"""A measurement of a simulated path: which trials it makes, and its report as text, JSON and picture."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from tests.measuring import LATENCY, Simulated, measured
from wirespeed.cli.options import as_json
from wirespeed.errors import Error, Kind
from wirespeed.measure import plots, report
from wirespeed.measure.report import Report
from wirespeed.measure.search import Limit
from wirespeed.measure.trial import line_rate


def test_a_measurement_by_the_rfc_makes_trials_of_60_s_with_pauses_of_5_s() -> None:
    done = measured(Simulated(knee=20_000))
    assert {load.seconds for load, _ in done.path.loads} == {60}
    assert done.slept == [5] * (len(done.path.loads) - 1)
    assert not any("instead of 60 s" in each or "instead of 5 s" in each for each in done.report.departures)


def test_the_latency_is_that_of_one_trial_at_the_throughput() -> None:
    done = measured(Simulated(knee=20_000), tests=("latency",), sizes=(64,))
    (size,) = done.report.sizes
    assert size.throughput
    assert size.latency
    assert size.latency.latency == LATENCY
    assert [load.rate for load, latency in done.path.loads if latency] == [size.throughput.rate]


def test_the_latency_at_half_of_the_throughput_is_said_to_be_so() -> None:
    done = measured(Simulated(knee=20_000), tests=("latency",), sizes=(64,), latency_load=50)
    (size,) = done.report.sizes
    assert size.throughput
    assert [load.rate for load, latency in done.path.loads if latency] == [size.throughput.rate / 2]
    assert "The latency is that at 50 % of the throughput." in done.report.departures


def test_without_a_throughput_there_is_no_latency() -> None:
    done = measured(Simulated(knee=0), tests=("throughput", "latency"))
    assert [each.latency for each in done.report.sizes] == [None, None]
    assert "Latency" in report.text(done.report)
    ElementTree.fromstring(plots.svg(done.report))


def test_the_maximum_is_the_line_rate_if_the_generator_reaches_it() -> None:
    done = measured(Simulated(speed=100), tests=("throughput",))
    assert [each.maximum for each in done.report.sizes] == [line_rate(100, 64), line_rate(100, 1518)]
    assert [each.throughput and each.throughput.limit for each in done.report.sizes] == [Limit.MAXIMUM] * 2


def test_a_throughput_at_the_generators_limit_is_marked() -> None:
    done = measured(Simulated(speed=10_000), tests=("throughput",), sizes=(64,))
    (size,) = done.report.sizes
    assert size.generator == size.maximum == pytest.approx(300_000)
    assert size.throughput
    assert size.throughput.limit is Limit.GENERATOR
    row = report.text(done.report).splitlines()[6].split()
    assert row == ["64", "300000", "153.6", "100.0", "%", "generator", "300000", "1"]


def test_no_trial_exceeds_the_highest_rate_that_was_asked_for() -> None:
    done = measured(Simulated(), max_rate=1234.0)
    assert max(load.rate for load, _ in done.path.loads) == 1234


def test_the_generator_is_measured_for_a_second_unless_no_trial_comes_near_its_limit() -> None:
    def frames(max_rate: float | None) -> list[int]:
        alone = Simulated(reach=300_000)
        measured(Simulated(), alone, sizes=(64,), tests=("loss",), max_rate=max_rate)
        return [load.frames for load, _ in alone.loads]

    assert frames(None) == frames(30_001) == [20_000, 300_000]
    assert frames(30_000) == [20_000]


def test_a_frame_that_does_not_fit_the_mtu_is_refused_before_the_first_trial() -> None:
    path = Simulated()
    with pytest.raises(
        Error, match=r"expected at most 1518 bytes, by the MTU of both interfaces, got 1522"
    ) as caught:
        measured(path, sizes=(64, 1522))
    assert caught.value.kind is Kind.INVALID_REQUEST
    assert not path.loads


def test_a_trial_that_the_machine_held_up_is_repeated_twice_before_it_counts() -> None:
    done = measured(Simulated(reach=20_000, starved=0.25), tests=("throughput",), sizes=(64,))
    rates = [load.rate for load, _ in done.path.loads]
    assert rates[:4] == [rates[0]] * 3 + [rates[0] / 2]
    path = Simulated(reach=20_000)
    assert len({load.rate for load, _ in measured(path, tests=("throughput",), sizes=(64,)).path.loads}) == len(
        path.loads
    )


def test_every_trial_is_told_with_what_it_shows() -> None:
    lossy = measured(Simulated(knee=20_000), tests=("throughput",), sizes=(64,)).notes
    assert lossy[0] == "64 bytes: the generator alone reaches 300000 frames/s"
    assert lossy[1] == "64 bytes, throughput: 300000 frames/s: 16800000 of 18000000 frames lost (93.333 %)"
    slow = measured(Simulated(reach=20_000, starved=0.25), tests=("throughput",), sizes=(64,), trial=1.0).notes
    assert slow[1] == (
        "64 bytes, throughput: 300000 frames/s: no loss, but only 20000 frames/s were sent; "
        "the sender waited 3750 ms for a CPU"
    )
    unread = measured(Simulated(read=200_000), tests=("throughput",), sizes=(64,), trial=1.0).notes
    assert unread[1] == "64 bytes, throughput: 300000 frames/s: no loss, but 100000 frames were not read in time"


def test_the_json_has_all_that_the_report_has() -> None:
    found = measured(Simulated(knee=20_000, speed=1000), trial=1.0).report
    assert msgspec.json.decode(as_json(found), type=Report) == found


def test_the_text_names_every_departure_from_the_rfc() -> None:
    found = measured(Simulated(knee=20_000), trial=1.0, pause=0.0, accepted_loss=0.1).report
    text = report.text(found)
    assert "- A trial takes 1 s instead of 60 s.\n" in text
    assert "- The pause between two trials is 0 s instead of 5 s.\n" in text
    assert "partial drop rate" in text


def test_the_picture_has_a_graph_for_each_test_and_needs_nothing_else() -> None:
    found = measured(Simulated(knee=20_000, speed=1000)).report
    picture = plots.svg(found)
    texts = [each.text for each in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    for title in (
        "Throughput (RFC 2544, 26.1)",
        "Latency at 100 % of the throughput (RFC 2544, 26.2)",
        "Frame loss rate (RFC 2544, 26.3)",
    ):
        assert title in texts
    assert "href" not in picture
    assert "left to right" in texts


def test_the_names_in_the_picture_are_escaped() -> None:
    path = Simulated(knee=20_000)
    path.source = msgspec.structs.replace(path.source, name="a<b&c")
    texts = [each.text for each in ElementTree.fromstring(plots.svg(measured(path).report)).iter()]
    assert "a<b&c to right" in texts


def test_a_picture_of_some_tests_has_only_their_graphs() -> None:
    picture = plots.svg(measured(Simulated(knee=20_000), tests=("loss",)).report)
    assert "26.3" in picture
    assert "26.1" not in picture
