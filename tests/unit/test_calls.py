"""The history of calls: what is kept, for how long, and what a damaged file costs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from wirespeed.state import calls
from wirespeed.state.calls import Call, Calls
from wirespeed.trace import Step


def call(pod: str = "default/a", **more: object) -> Call:
    values: dict[str, object] = {"trace": "0" * 32, "verb": "ADD", "plugin": "meta", "at": 1.0, "seconds": 0.5}
    return Call(**{**values, "pod": pod, **more})  # type: ignore[arg-type]


def test_calls_are_read_back_from_the_oldest_with_their_steps(tmp_path: Path) -> None:
    kept = [call(steps=[Step("attach", 0.1, 0.2, about={"device": "x"}, error="no")]), call("default/b", code=7)]
    for each in kept:
        Calls(tmp_path / "calls").append(each)
    assert list(Calls(tmp_path / "calls").read()) == kept


def test_calls_of_a_pod_are_not_those_of_one_that_it_names(tmp_path: Path) -> None:
    history = Calls(tmp_path / "calls")
    history.append(call("default/b", error='network of "default/a"'))
    history.append(call("default/a"))
    assert [each.pod for each in history.read("default/a")] == ["default/a"]


def test_no_history_is_an_empty_one(tmp_path: Path) -> None:
    assert list(Calls(tmp_path / "calls").read()) == []


def test_full_history_forgets_the_oldest_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_SIZE", 2000)
    history = Calls(tmp_path / "calls")
    for number in range(100):
        history.append(call(container=str(number)))
    found = [int(each.container) for each in history.read()]
    assert found == list(range(found[0], 100))
    assert 10 < len(found) < 40
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000


def test_lines_cut_by_a_kill_are_skipped(tmp_path: Path) -> None:
    history = Calls(tmp_path / "calls")
    history.append(call("default/a"))
    with history.path.open("ab") as file:
        file.write(b'{"trace": "1", "ve\n')
    history.append(call("default/b"))
    assert [each.pod for each in history.read()] == ["default/a", "default/b"]


def test_only_the_owner_may_read_the_history(tmp_path: Path) -> None:
    history = Calls(tmp_path / "calls")
    history.append(call())
    assert history.path.stat().st_mode & 0o777 == 0o600


def test_history_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = Calls(tmp_path / "missing/calls")
    history.append(call())
    history.append(call())
    assert [record.getMessage() for record in caplog.records] == [
        f"history of calls {tmp_path}/missing/calls: No such file or directory"
    ]


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    history = Calls(tmp_path / "calls")

    def write(number: int) -> None:
        for each in range(50):
            history.append(call(container=f"{number}-{each}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.container for each in history.read()}) == 200


def test_path_of_a_failure_leads_to_the_innermost_step_and_not_into_the_undo() -> None:
    steps = [
        Step("read the pod", 0, 1),
        Step("attach", 1, 1, about={"network": "default/left"}, error="device x: no driver"),
        Step("bind the driver", 1, 1, parent=1, error="no driver"),
        Step("undo", 2, 1, error="device x: busy"),
        Step("detach", 2, 1, parent=3, error="busy"),
    ]
    failed = call(code=101, error="device x: no driver", steps=steps)
    assert failed.failed_path == ["attach network=default/left", "bind the driver"]
    assert call(steps=steps).failed_path == []
