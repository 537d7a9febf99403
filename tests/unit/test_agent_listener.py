"""The agent's socket when another program takes its path."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from wirespeed.agent.listener import Listener, Lock


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

    with contextlib.closing(Lock(path)) as lock:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", taken)
            listener = Listener(path, lock)
        old = listener.recreate_if_replaced()
        assert old is not None
        old.close()
        assert path.is_socket()
        assert listener.recreate_if_replaced() is None
        listener.close()
    assert not path.exists()


def test_path_that_another_program_takes_between_removal_and_creation_is_not_fought_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run/agent.sock"
    link = os.link

    def taken(source: Path, target: Path) -> None:
        target.write_text("another program's")
        link(source, target)

    with contextlib.closing(Lock(path)) as lock, contextlib.closing(Listener(path, lock)) as listener:
        monkeypatch.setattr(os, "link", taken)
        renewals = 0
        for _ in range(5):
            path.unlink()
            if (old := listener.recreate_if_replaced()) is not None:
                old.close()
                renewals += 1
        assert renewals == 1
        assert path.read_text() == "another program's"
        assert sorted(each.name for each in path.parent.iterdir()) == ["agent.sock", "agent.sock.lock"]
