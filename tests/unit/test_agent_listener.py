"""The agent's socket when another program takes its path."""

from __future__ import annotations

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
