"""The searches of RFC 2544 on simulated paths: throughput and frame loss rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.measuring import Simulated
from wirespeed.measure.search import FLOOR, Limit, Run, Throughput, loss_rates, throughput, trial_count
from wirespeed.measure.trial import Load, Outcome, Trial

SECONDS = 10.0
resolutions = st.floats(0.001, 0.5)
maxima = st.floats(1e3, 2e7)


def runs(path: Simulated) -> Run:
    return lambda rate: path.run(Load(size=64, rate=rate, seconds=SECONDS))


def search(path: Simulated, maximum: float = 100_000, resolution: float = 0.01, **more: float) -> Throughput:
    return throughput(runs(path), maximum=maximum, resolution=resolution, **more)


@given(maximum=maxima, share=st.floats(2 * FLOOR, 0.999), resolution=resolutions)
def test_the_knee_of_a_path_is_between_the_throughput_and_the_lowest_rate_that_failed(
    maximum: float, share: float, resolution: float
) -> None:
    knee = maximum * share
    found = search(Simulated(knee=knee), maximum, resolution)
    assert found.first_failed is not None
    one_frame = 1 / SECONDS  # a path cannot lose less
    assert found.rate <= knee + one_frame
    assert found.first_failed >= knee
    width = found.first_failed - found.rate
    assert width <= resolution * found.first_failed * (1 + 1e-12)  # the rounding of the halved intervals
    assert found.limit is Limit.LOSS


@given(maximum=maxima, share=st.floats(0, 1.5), resolution=resolutions)
def test_a_search_takes_no_more_trials_than_foretold(maximum: float, share: float, resolution: float) -> None:
    found = search(Simulated(knee=maximum * share), maximum, resolution)
    assert len(found.trials) <= trial_count(resolution)


@given(lost=st.lists(st.booleans(), min_size=40, max_size=40), resolution=resolutions)
def test_on_a_noisy_path_a_trial_at_the_throughput_passed_and_one_just_above_failed(
    lost: list[bool], resolution: float
) -> None:
    verdicts = iter(lost)

    def run(rate: float) -> Trial:
        load = Load(size=64, rate=rate, seconds=SECONDS)
        return Trial(load=load, sent=load.frames, elapsed=SECONDS, received=load.frames - next(verdicts))

    found = throughput(run, maximum=50_000, resolution=resolution)
    passed = {trial.load.rate: trial.offered for trial in found.trials if trial.outcome() is Outcome.PASSED}
    failed = {trial.load.rate for trial in found.trials if trial.outcome() is not Outcome.PASSED}
    assert found.rate == (min(max(passed), passed[max(passed)]) if passed else 0)
    assert found.first_failed == min(failed, default=None)
    assert not failed or max(passed, default=0) < min(failed)


def test_a_path_that_loses_nothing_takes_one_trial_at_the_maximum() -> None:
    found = search(Simulated())
    assert (found.rate, found.limit, found.first_failed, len(found.trials)) == (100_000, Limit.MAXIMUM, None, 1)


def test_a_path_that_passes_nothing_has_no_throughput() -> None:
    found = search(Simulated(knee=0))
    assert (found.rate, found.limit) == (0, Limit.LOSS)


def test_a_lost_frame_in_a_million_fails_a_trial() -> None:
    load = Load(size=64, rate=100_000, seconds=10)
    trial = Trial(load=load, sent=1_000_000, elapsed=10, received=999_999)
    assert trial.outcome() is Outcome.LOST
    assert trial.outcome(accepted_loss=0.001) is Outcome.PASSED


def test_loss_that_is_accepted_gives_the_partial_drop_rate() -> None:
    strict, lax = search(Simulated(knee=50_000)), search(Simulated(knee=50_000), accepted_loss=10)
    assert strict.rate == pytest.approx(50_000, rel=0.01)
    assert lax.rate == pytest.approx(50_000 / 0.9, rel=0.01)


def test_a_sender_that_its_interface_holds_up_is_told_from_the_generator() -> None:
    held_up = search(Simulated(reach=40_000), generator=300_000)
    assert held_up.limit is Limit.INTERFACE
    assert held_up.rate == pytest.approx(40_000, rel=0.02)
    assert search(Simulated(reach=40_000), generator=45_000).limit is Limit.GENERATOR
    assert search(Simulated(reach=40_000, starved=0.2), generator=300_000).limit is Limit.GENERATOR


def test_what_the_receiver_did_not_read_is_not_the_loss_of_the_path() -> None:
    found = search(Simulated(read=30_000))
    assert found.limit is Limit.GENERATOR
    assert found.rate == pytest.approx(30_000, rel=0.01)
    assert all(trial.lost == 0 for trial in found.trials)


def test_the_maximum_is_the_generators_if_it_reaches_no_more() -> None:
    assert search(Simulated(), generator=100_000).limit is Limit.GENERATOR


def test_loss_is_measured_in_steps_until_two_trials_in_succession_lose_nothing() -> None:
    found = loss_rates(runs(Simulated(knee=75_000)), maximum=100_000)
    assert [trial.load.rate for trial in found] == [100_000, 90_000, 80_000, 70_000, 60_000]
    assert [round(trial.loss, 2) for trial in found] == [25, 16.67, 6.25, 0, 0]


def test_a_trial_without_loss_between_two_with_loss_does_not_end_the_steps() -> None:
    lost = iter([0, 1, 0, 1, 0, 0])

    def run(rate: float) -> Trial:
        load = Load(size=64, rate=rate, seconds=SECONDS)
        return Trial(load=load, sent=load.frames, elapsed=SECONDS, received=load.frames - next(lost))

    assert len(loss_rates(run, maximum=1000)) == 6
