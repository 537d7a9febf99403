"""What a trial counts: arrivals, latencies, and the pace at which frames are sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.measure.sender import Pace
from wirespeed.measure.trial import Arrivals, Latencies, line_rate, mbits

FRAMES = 50
MS = 1_000_000  # ns


def batches(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


@given(numbers=st.lists(st.integers(0, FRAMES - 1), max_size=80), size=st.integers(1, 20))
def test_arrivals_are_counted_as_one_by_one(numbers: list[int], size: int) -> None:
    found = Arrivals(FRAMES)
    for batch in batches(numbers, size):
        found.add(batch)
    first = list(dict.fromkeys(numbers))
    assert found.received == len(first)
    assert found.duplicates == len(numbers) - len(first)
    assert found.reordered == sum(number < max(first[:at], default=-1) for at, number in enumerate(first))


@given(missing=st.sets(st.integers(0, FRAMES - 1)), size=st.integers(1, 20))
def test_frames_in_order_with_gaps_are_not_reordered(missing: set[int], size: int) -> None:
    found = Arrivals(FRAMES)
    for batch in batches([number for number in range(FRAMES) if number not in missing], size):
        found.add(batch)
    assert (found.received, found.duplicates, found.reordered) == (FRAMES - len(missing), 0, 0)


@given(values=st.lists(st.integers(0, 10**9), min_size=1, max_size=300))
def test_percentiles_are_those_of_all_values_by_the_nearest_rank(values: list[int]) -> None:
    latencies = Latencies()
    for batch in batches(values, 64):
        latencies.add(batch)
    found = latencies.summary()
    assert found is not None
    ordered = sorted(values)
    step = 0.0161  # µs, half of what is counted as one, and the error of floats
    for share, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (0.999, found.p999)):
        assert value == pytest.approx(ordered[math.ceil(share * len(values)) - 1] / 1000, abs=step)
    assert found.minimum == pytest.approx(ordered[0] / 1000, abs=step)
    assert found.maximum == pytest.approx(ordered[-1] / 1000, abs=step)
    assert found.mean == pytest.approx(sum(values) / len(values) / 1000, abs=step)
    assert found.frames == len(values)


def test_no_frames_have_no_latency() -> None:
    assert Latencies().summary() is None


def test_line_rates_are_the_known_ones_of_10_gigabit_ethernet() -> None:
    listed = {64: 14_880_952, 128: 8_445_945, 256: 4_528_985, 1518: 812_743}
    assert {size: int(line_rate(10_000, size)) for size in listed} == listed


def test_a_frame_counts_without_the_gap_before_it() -> None:
    assert mbits(1000, 1250) == 10


def steps(pace: Pace, *, end: int, step: int, start: int = 0) -> int:
    """Send what is due every `step` ns; return how many frames."""
    total = 0
    for now in range(start, end, step):
        due = pace.due(now)
        pace.sent(due)
        total += due
    return total


@given(rate=st.floats(10, 1e6), step=st.integers(1_000, 200_000))
def test_a_sender_that_is_not_held_up_keeps_the_rate(rate: float, step: int) -> None:
    assert steps(Pace(rate, 0), end=300 * step, step=step) == pytest.approx(
        rate * 300 * step / 1e9, abs=2 + rate * step / 1e9
    )


def test_frames_of_a_low_rate_are_sent_one_by_one() -> None:
    pace = Pace(1000, 0)
    sent = []
    for now in range(0, 20 * MS, MS // 10):
        sent.append(pace.due(now))
        pace.sent(sent[-1])
    assert max(sent) == 1
    assert sum(sent) == 20


def test_after_a_delay_the_sender_makes_up_at_a_moderate_rate() -> None:
    pace = Pace(100_000, 0)
    steps(pace, end=10 * MS, step=10_000)
    assert pace.due(50 * MS) == 200  # 2 ms of the rate, although 40 ms are missing
    pace.sent(200)
    caught = steps(pace, start=50 * MS + 10_000, end=60 * MS, step=10_000)
    assert caught == pytest.approx(10 * 100 * 1.25, abs=3)
    steps(pace, start=60 * MS, end=300 * MS, step=10_000)
    assert pace.next_due() == pytest.approx(300 * MS, abs=20_000)  # the schedule is as before


def test_a_long_delay_moves_the_schedule() -> None:
    pace = Pace(100_000, 0)
    pace.sent(pace.due(0))
    pace.due(1000 * MS)
    behind = 1000 * MS - pace.next_due()
    assert behind == pytest.approx(100 * MS, abs=20_000)
