"""The agent's socket when another program takes its path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wirespeed.agent.listener import listening, only_agent


def test_what_takes_the_path_in_the_instant_it_is_there_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run/agent.sock"
    rename = Path.rename

    def taken(self: Path, target: Path) -> Path:
        there = rename(self, target)
        there.unlink()
        there.write_text("another program's")
        return there

    with only_agent(path) as lock:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", taken)
            opened = listening(path, lock)
            listener = opened.__enter__()
        old = listener.renewed()
        assert old is not None
        old.close()
        assert path.is_socket()
        assert listener.renewed() is None
        opened.__exit__(None, None, None)
    assert not path.exists()


def test_path_that_another_program_takes_between_removal_and_creation_is_not_fought_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run/agent.sock"
    link = os.link

    def taken(source: Path, target: Path) -> None:
        target.write_text("another program's")
        link(source, target)

    with only_agent(path) as lock, listening(path, lock) as listener:
        monkeypatch.setattr(os, "link", taken)
        renewals = 0
        for _ in range(5):
            path.unlink()
            if (old := listener.renewed()) is not None:
                old.close()
                renewals += 1
        assert renewals == 1
        assert path.read_text() == "another program's"
        assert sorted(each.name for each in path.parent.iterdir()) == ["agent.sock", "agent.sock.lock"]
