"""`wirespeed agent --check`: what a probe learns of the agent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import check
from tests.node.conftest import PATIENCE, ROOT, Agent
from wirespeed.cni.errors import CniError, Code


def asked(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "agent", "--check", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_agent_that_serves_is_well_and_one_that_is_gone_is_not(agent_process: Callable[..., Agent]) -> None:
    agent = agent_process()
    answer = asked(agent.config)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    agent.stop(signal.SIGKILL)
    answer = asked(agent.config)
    assert answer.returncode == 1
    assert f"agent at {agent.socket}: " in answer.stderr


def test_agent_that_does_not_answer_is_not_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = tmp_path / "agent.yaml", tmp_path / "agent.sock"
    config.write_text(f"socket: {path}\n")
    monkeypatch.setattr(check, "_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(CniError, match=f"agent at {path}: timed out") as refused:
            check.check(config)
    assert refused.value.code == Code.UNAVAILABLE
