"""Steps of a call: nesting, times, errors, and their cost without a trace."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from wirespeed.errors import Error, Kind, Thing
from wirespeed.system.filelock import locked
from wirespeed.system.files import open_in_folder
from wirespeed.trace import ROOT, Trace, name_pod, step, trace_id, tracing


def names(trace: Trace) -> list[tuple[str, int]]:
    return [(each.name, each.parent) for each in trace.steps]


def test_steps_are_kept_in_the_order_in_which_they_begin_with_the_step_that_they_are_part_of() -> None:
    trace = Trace(time.monotonic())
    with tracing(trace):
        with step("attach", network="default/left"), step("claim"), step("lock"):
            pass
        with step("report"):
            pass
    assert names(trace) == [("attach", ROOT), ("claim", 0), ("lock", 1), ("report", ROOT)]
    assert trace.steps[0].about == {"network": "default/left"}
    assert all(each.seconds >= 0 for each in trace.steps)
    assert trace.steps[0].began + trace.steps[0].seconds <= trace.steps[3].began


def test_running_steps_are_seen_from_another_thread() -> None:
    trace = Trace(time.monotonic())
    with tracing(trace), step("attach"), step("move"):
        assert [each.name for each in trace.current()] == ["attach", "move"]
    assert trace.current() == []


def test_error_that_leaves_steps_is_the_error_of_each() -> None:
    trace = Trace(time.monotonic())
    with (
        pytest.raises(Error),
        tracing(trace),
        step("attach"),
        step("bind"),
    ):
        raise Error(Kind.DEVICE, "no driver", where=Thing("device", "0000:18:02.0"))
    assert [each.error for each in trace.steps] == ["device 0000:18:02.0: no driver"] * 2


def test_error_that_is_handled_inside_a_step_is_not_its_error() -> None:
    trace = Trace(time.monotonic())
    with tracing(trace), step("outer"), pytest.raises(ValueError, match="odd"), step("inner"):
        raise ValueError("odd")
    assert [each.error for each in trace.steps] == ["", "ValueError: odd"]


def test_steps_and_names_without_a_trace_do_nothing() -> None:
    with step("alone", device="x"):
        name_pod("default/pod", "uid")
        assert trace_id() == ""


def test_traces_of_threads_are_separate() -> None:
    traces = [Trace(time.monotonic()) for _ in range(2)]
    both = threading.Barrier(2)

    def work(trace: Trace) -> None:
        with tracing(trace):
            both.wait(30)
            with step(trace.id):
                both.wait(30)
                assert trace_id() == trace.id

    threads = [threading.Thread(target=work, args=(trace,)) for trace in traces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [names(trace) for trace in traces] == [[(trace.id, ROOT)] for trace in traces]
    assert traces[0].id != traces[1].id
    assert len(traces[0].id) == 32


def test_pod_of_a_call_can_become_known_later() -> None:
    trace = Trace(time.monotonic())
    with tracing(trace):
        name_pod("default/source", "7")
    assert (trace.pod, trace.uid) == ("default/source", "7")


def test_wait_for_a_lock_is_a_step_only_if_there_was_one(tmp_path: Path) -> None:
    lock, trace = threading.Lock(), Trace(time.monotonic())

    def opened() -> int:
        return open_in_folder(tmp_path / "lock", 0o102, 0o600, folder_mode=0o700)

    def busy() -> Error:
        return Error(Kind.TRY_AGAIN, "busy")

    with tracing(trace), locked(lock, opened, deadline=time.monotonic() + 60, busy=busy):
        assert trace.steps == []
        with (
            pytest.raises(Error, match="busy"),
            locked(lock, opened, deadline=time.monotonic() + 0.01, busy=busy),
        ):
            raise AssertionError("locked twice")
    assert [(each.name, each.error) for each in trace.steps] == [("wait for a lock", "busy")]
