"""The agent's socket is removed or replaced: the agent creates it again, and no call is lost."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.calling import DONE, PROBE_CONFIG, Events, Gate, is_soon, until
from tests.node.conftest import PATIENCE, Process
from tests.node.pods import World
from tests.node.test_agent import StartAgent, StartProbe, events, gate, probe
from wirespeed.agent import frame

__all__ = ["events", "gate", "probe"]

ANEW = "was removed or replaced by another program: recreated"


def tasks(process: Process) -> list[Path]:
    return [*Path(f"/proc/{process.pid}/task").iterdir()]


def state(task: Path) -> str:
    """The state of a thread, as in proc_pid_stat(5)."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Stop it meanwhile: between two steps of the test the agent would create what it misses."""
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: all(state(task) == "T" for task in tasks(process)), "all threads stopped")
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def remove(path: Path) -> None:
    path.unlink()


def clean(path: Path) -> None:
    """Like a program that empties the directory, including the lock and the journal."""
    for file in path.parent.iterdir():
        file.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir(mode=0o700)


def replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("")


def replace_by_folder(path: Path) -> None:
    """Like a container runtime that creates a missing mount point as a directory."""
    path.unlink()
    path.mkdir()


def replace_by_socket(path: Path) -> None:
    """In one step: between removal and creation the agent would create its own."""
    made = path.with_name("other")
    made.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(made))
    made.rename(path)


WAYS = (remove, clean, remove_folder, replace_folder, replace_by_file, replace_by_folder, replace_by_socket)


@pytest.mark.parametrize("take", WAYS, ids=lambda way: way.__name__)
def test_agent_listens_anew(agent_process: StartAgent, probe: StartProbe, take: Callable[[Path], None]) -> None:
    agent = agent_process()
    with stopped(agent.process):
        take(agent.socket)
    assert probe(agent, "DEL").answer() == DONE
    agent.wait_log("WARNING", f"socket {agent.socket} ", ANEW)
    assert agent.socket.stat().st_mode & 0o777 == 0o600
    assert agent.stop() == 0
    assert not agent.socket.exists()


def test_agent_listens_anew_soon(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()

    def once() -> float:
        began = time.monotonic()
        agent.socket.unlink()
        assert probe(agent, "DEL").answer() == DONE
        return time.monotonic() - began

    assert is_soon(once, 1.0)


def test_calls_that_run_or_have_just_come_are_answered(
    agent_process: StartAgent, probe: StartProbe, gate: Callable[[], Gate], events: Events
) -> None:
    agent, held = agent_process(), gate()
    running = probe(agent, "ADD", "c1", gate=held)
    assert events.next() == "begin ADD c1"
    with socket.socket(socket.AF_UNIX) as come:
        come.settimeout(PATIENCE)
        with stopped(agent.process):
            come.connect(str(agent.socket))  # queued by the kernel on the old socket
            environ = {key: value for key, value in agent.environ("DEL", "c2").items() if key.startswith("CNI_")}
            come.sendall(frame.write_call(frame.Call("probe", environ, json.dumps(PROBE_CONFIG).encode())))
            clean(agent.socket)
        assert come.recv(8) == b"\0" * 8
    agent.wait_log(ANEW)
    held.open()
    assert running.answer().status == 0


def test_journal_that_was_removed_with_it_keeps_what_it_had(world: World) -> None:
    before = world.pod("before", "bridged")
    world.add(before)
    with stopped(world.agent.process):
        clean(world.agent.socket)
    world.agent.wait_log(ANEW)
    after = world.pod("after", "bridged")
    world.add(after)
    assert len(world.rows()) == 4
    assert world.agent.stop(signal.SIGKILL) == -signal.SIGKILL
    world.restart()
    for pod in (before, after):
        assert world.call("DEL", pod) == DONE
        assert world.nothing_left(pod)


def test_of_two_agents_the_one_that_has_the_lock_goes_on(agent_process: StartAgent, probe: StartProbe) -> None:
    first = agent_process()
    with stopped(first.process):
        clean(first.socket)
        second = agent_process(socket=str(first.socket))
    first.wait_log("ERROR", f"another agent serves it, process {second.process.pid}: this agent ends")
    assert first.process.wait(PATIENCE) == 1
    assert probe(second, "DEL").answer() == DONE
    assert second.stop() == 0
    assert not any(ANEW in line for line in second.log)


def test_path_that_another_program_takes_time_and_again_is_not_fought_for(
    agent_process: StartAgent, probe: StartProbe
) -> None:
    agent = agent_process()
    for _ in range(3):
        ours = agent.socket.stat().st_ino
        replace_by_socket(agent.socket)
        until(lambda: agent.socket.stat().st_ino != ours and is_listening(agent.socket), "listening")  # noqa: B023
    assert probe(agent, "DEL").answer() == DONE
    times = sum(ANEW in line for line in agent.log)
    began = time.monotonic()
    while time.monotonic() - began < 2.0:  # another program replaces it immediately, each time
        if is_listening(agent.socket):
            replace_by_socket(agent.socket)
        time.sleep(0.01)
    assert sum(ANEW in line for line in agent.log) - times <= 3


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def test_agent_whose_folder_is_not_to_be_reached_any_more_ends(agent_process: StartAgent, tmp_path: Path) -> None:
    """Like in a container whose mounted host directory was removed."""
    folder = tmp_path / "run"
    agent = agent_process(socket=str(folder / "agent.sock"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "none", folder], check=True)
    try:
        agent.wait_log("ERROR", "its folder is now on another filesystem: this agent ends")
        assert agent.process.wait(PATIENCE) == 1
    finally:
        subprocess.run(["umount", folder], check=True)


def test_folder_that_cannot_be_used_is_told_once_and_tried_on(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()
    folder = agent.socket.parent
    with stopped(agent.process):
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("no folder")
    agent.wait_log("ERROR", f"socket {agent.socket}: ", "the agent cannot be called, and tries again")
    folder.unlink()
    assert probe(agent, "DEL").answer() == DONE
    assert sum("the agent cannot be called" in line for line in agent.log) == 1
