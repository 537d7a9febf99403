"""`wirespeed agent --check` and the shim's `--check`: what a probe reports about the agent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.conftest import PATIENCE, ROOT, Agent
from wirespeed.agent import client, frame
from wirespeed.errors import Error, Kind


def asked(config: Path) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "wirespeed", "agent", "--check", "--config", str(config)])


def asked_by_the_shim(path: Path) -> subprocess.CompletedProcess[str]:
    return _run([str(ROOT / "build/wirespeed-cni"), "--check"], env={"WIRESPEED_SOCKET": str(path)})


def _run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE, **more)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A process that listens on agent.sock but is not an agent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(tmp_path / "agent.sock"))
        made.listen()
        yield made


def test_agent_that_serves_is_well_and_one_that_is_gone_is_not(agent_process: Callable[..., Agent]) -> None:
    agent = agent_process()
    answer = asked(agent.config)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    agent.stop(signal.SIGKILL)
    answer = asked(agent.config)
    assert answer.returncode == 1
    assert f"agent at {agent.socket}: " in answer.stderr


def test_shim_tells_the_same(agent_process: Callable[..., Agent]) -> None:
    agent = agent_process()
    answer = asked_by_the_shim(agent.socket)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    agent.stop(signal.SIGKILL)
    answer = asked_by_the_shim(agent.socket)
    assert answer.returncode == 1
    assert f"no agent answers at {agent.socket}: " in answer.stdout


@pytest.mark.usefixtures("listener")
def test_shim_is_told_of_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    answer = asked_by_the_shim(path)
    assert answer.returncode == 1
    assert f"agent at {path} ended before it had answered --check: " in answer.stdout


def test_shim_is_told_of_a_status(listener: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    asking = threading.Thread(target=answer_once, args=(listener, frame.write_answer(1)))
    asking.start()
    answer = asked_by_the_shim(path)
    asking.join()
    assert answer.returncode == 1
    assert f"agent at {path}: answered with status 1" in answer.stdout


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        call = None
        received = b""
        while call is None:
            received += connection.recv(4096)
            call = frame.parse_call(received)
        assert (call.name, call.environ) == ("meta", {"CNI_COMMAND": "VERSION"})
        connection.sendall(answer)


@pytest.mark.usefixtures("listener")
def test_agent_that_does_not_answer_is_not_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = tmp_path / "agent.yaml", tmp_path / "agent.sock"
    config.write_text(f"socket: {path}\n")
    monkeypatch.setattr(client, "_CHECK_TIMEOUT", 0.05)
    with pytest.raises(Error, match=f"agent at {path}: timed out") as refused:
        client.check(config)
    assert refused.value.kind == Kind.UNAVAILABLE
