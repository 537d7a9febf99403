"""Changes that are made together or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from wirespeed import steps
from wirespeed.errors import Error, Kind
from wirespeed.steps import Failure, Step, StepError, Undo, carry_out


class Log:
    """Makes steps that write down when they are made and undone. Those in `fails` fail when they are undone."""

    def __init__(self, *fails: str) -> None:
        self.said: list[str] = []
        self._fails = fails

    def step(self, what: str, error: BaseException | None = None) -> Step:
        """A step that pushes its undo, and then raises the error."""

        def do(undo: Undo) -> None:
            self.said.append(what)
            undo.push(what, lambda: self._undo(what))
            if error:
                raise error

        return Step(what, do)

    def _undo(self, what: str) -> None:
        self.said.append(f"no {what}")
        if what in self._fails:
            raise OSError(5, "Input/output error", what)


def test_steps_are_made_in_order_and_shown_before() -> None:
    log = Log()
    carry_out(map(log.step, "abc"), lambda number, step: log.said.append(f"{number}: {step.what}"))
    assert log.said == ["0: a", "a", "1: b", "b", "2: c", "c"]


def test_failure_undoes_all_in_reverse_order_with_what_the_failed_step_has_begun() -> None:
    log = Log()
    with pytest.raises(StepError, match=r"^taken$") as failed:
        carry_out([log.step("a"), log.step("b", Error(Kind.POLICY, "taken", details="by c")), log.step("c")])
    assert log.said == ["a", "b", "no b", "no a"]
    assert (failed.value.kind, failed.value.details, failed.value.step) == (Kind.POLICY, "by c", "b")
    assert failed.value.left == []


def test_error_names_what_cannot_be_undone_and_the_rest_is_undone() -> None:
    log = Log("b", "c")
    with pytest.raises(StepError) as failed:
        carry_out([*map(log.step, "abc"), log.step("d", OSError(28, "No space left on device"))])
    assert log.said[4:] == ["no d", "no c", "no b", "no a"]
    left = "c (c: Input/output error); b (b: Input/output error)"
    assert failed.value.msg == f"system: No space left on device; not undone: {left}"
    assert failed.value.kind == Kind.IO


def test_interrupted_steps_are_undone_too(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("a")
    with pytest.raises(KeyboardInterrupt):
        carry_out([log.step("a"), log.step("b", KeyboardInterrupt())])
    assert log.said == ["a", "b", "no b", "no a"]
    assert "not undone: a: a: Input/output error" in caplog.text


def test_mistake_in_an_undo_does_not_prevent_the_others() -> None:
    log, undo = Log(), Undo()
    log.step("a").do(undo)
    undo.push("b", lambda: dict[str, str]()["b"])
    assert undo.run() == [Failure("b", "KeyError('b')")]
    assert log.said == ["a", "no a"]
    assert undo.run() == []


def test_files_are_what_they_were_after_a_failure(tmp_path: Path) -> None:
    plugin, kept, new = (tmp_path / name for name in ("sriov", "sriov.replaced", "conf"))
    plugin.write_text("theirs")
    plugin.chmod(0o751)
    kept.write_text("older")
    changes = [
        steps.replace(plugin, b"ours", 0o755, "replace"),
        steps.write(new, b"{}", 0o600, "write"),
        steps.restore_backup(plugin, "put back"),
        steps.remove(plugin, "remove"),
    ]

    def files() -> dict[str, tuple[str, int]]:
        return {path.name: (path.read_text(), path.stat().st_mode) for path in tmp_path.iterdir()}

    before = files()
    for count in range(1, 5):
        with pytest.raises(StepError, match=r"^taken$"):
            carry_out([*changes[:count], Log().step("fail", Error(Kind.POLICY, "taken"))])
        assert files() == before
    carry_out(changes[:2])
    assert (plugin.read_text(), kept.read_text(), new.read_text()) == ("ours", "theirs", "{}")


@pytest.mark.parametrize(
    "make",
    [lambda path: steps.write(path, b"ours", 0o644, "write"), lambda path: steps.restore_backup(path, "put back")],
)
def test_change_of_a_file_whose_folder_cannot_be_written_to_disk_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Step]
) -> None:
    file = tmp_path / "file"
    file.write_text("theirs")
    (tmp_path / "file.replaced").write_text("kept")
    fsync = os.fsync
    failed: list[str] = []

    def fail_once(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) and not failed:
            failed.append(file.read_text())
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(StepError, match=r"Input/output error$"):
        carry_out([make(file)])
    assert failed != ["theirs"]
    assert (file.read_text(), (tmp_path / "file.replaced").read_text()) == ("theirs", "kept")


def test_file_that_could_not_be_written_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("theirs")

    def full(_path: Path, _data: bytes, _mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "write_atomically", full)
    with pytest.raises(StepError, match=r"^system: No space left on device$"):
        carry_out([steps.write(tmp_path / "file", b"ours", 0o644, "write")])
