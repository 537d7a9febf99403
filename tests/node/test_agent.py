"""The agent's process behind the shim: order, deadlines, rejected callers, start, end, and leftovers."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import DONE, PROBE_CONFIG, Call, Events, Gate, open_files, until
from tests.node.conftest import PATIENCE, Agent
from wirespeed.cni.errors import Code

NewGate = Callable[[], Gate]
StartProbe = Callable[..., Call]
StartAgent = Callable[..., Agent]


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    with Events(tmp_path) as told:
        yield told


@pytest.fixture
def probe(shim: Path, events: Events) -> StartProbe:
    """Call an agent's probe: `probe(agent, "DEL", "c1", gate=gate)`."""

    def call(
        agent: Agent,
        verb: str,
        container: str = "c1",
        *,
        name: str = "probe",
        gate: Gate | None = None,
        **config: Any,
    ) -> Call:
        config = {**PROBE_CONFIG, "events": str(events.path), **config}
        if gate is not None:
            config["gate"] = str(gate.path)
        return Call(shim, agent.environ(verb, container), config, name=name)

    return call


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], Gate]:
    """Make gates, each for one call."""
    numbers = itertools.count()
    return lambda: Gate(tmp_path / f"gate{next(numbers)}")


def threads(agent: Agent) -> int:
    return len(os.listdir(f"/proc/{agent.process.pid}/task"))


def descriptors(agent: Agent) -> set[tuple[int, str]]:
    return set(open_files(agent.process.pid))


# Calls


def test_add_gives_the_plugins_result_in_the_callers_version(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()
    status, body = probe(agent, "ADD", cniVersion="0.4.0").answer()
    assert status == 0
    assert body["cniVersion"] == "0.4.0"
    assert body["interfaces"] == [{"name": "net1", "sandbox": "/run/netns/none"}]


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_other_verbs_reach_the_plugin(
    agent_process: StartAgent, probe: StartProbe, events: Events, verb: str
) -> None:
    assert probe(agent_process(), verb).answer() == DONE
    assert events.next().startswith(f"begin {verb}")


def test_failure_keeps_the_plugins_code_and_is_logged_with_what_failed(
    agent_process: StartAgent, probe: StartProbe
) -> None:
    agent = agent_process()
    status, body = probe(agent, "DEL", "c9", fail=Code.ADDRESS).answer()
    assert (status, body["code"], body["msg"]) == (1, Code.ADDRESS, "the probe was told to fail")
    line = agent.wait_log(" ERROR failed ")
    for part in ("verb=DEL", "plugin=probe", "container=c9", "ifname=net1", "ms=", "code=103"):
        assert f" {part}" in line


def test_success_is_logged_in_one_line(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()
    assert probe(agent, "CHECK").answer() == DONE
    line = agent.wait_log(" INFO served ")
    assert re.search(" verb=CHECK plugin=probe container=c1 ifname=net1 trace=[0-9a-f]{32} ms=", line)
    assert line.endswith(" code=0\n")


def test_name_that_is_no_plugins_is_refused_with_the_known_ones(
    agent_process: StartAgent, probe: StartProbe
) -> None:
    status, body = probe(agent_process(), "ADD", name="nobody").answer()
    assert (status, body["code"]) == (1, Code.INVALID_CONFIG)
    assert body["msg"].startswith("unknown plugin; expected one of broken, inner, meta, ")


def test_plugin_that_cannot_be_made_is_logged_at_start_and_the_others_are_served(
    agent_process: StartAgent, probe: StartProbe
) -> None:
    agent = agent_process()
    agent.wait_log("ERROR plugin broken cannot be created", "RuntimeError: this plugin cannot be made")
    status, body = probe(agent, "ADD", name="broken").answer()
    assert (status, body["code"]) == (1, Code.INTERNAL)
    assert body["msg"] == "ADD: RuntimeError: this plugin cannot be made"
    assert probe(agent, "ADD").answer().status == 0


# Order


def test_calls_of_a_container_run_one_after_another_as_they_came(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(), gate()
    calls = [probe(agent, "ADD", gate=held)]
    assert events.next() == "begin ADD c1"
    for verb in ("DEL", "CHECK", "DEL"):
        calls.append(probe(agent, verb))
        agent.wait_log("queued", f"verb={verb}")
    held.open()
    assert [call.answer().status for call in calls] == [0, 0, 0, 0]
    told = [events.next() for _ in range(7)]
    expected = [f"{what} {verb} c1" for verb in ("DEL", "CHECK", "DEL") for what in ("begin", "end")]
    assert told == ["end ADD c1", *expected]


def test_calls_of_different_containers_run_at_once(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent = agent_process()
    gates = [gate() for _ in range(8)]
    calls = [probe(agent, "ADD", f"c{number}", gate=held) for number, held in enumerate(gates)]
    # All calls must begin before the first one may end.
    assert {events.next() for _ in calls} == {f"begin ADD c{number}" for number in range(8)}
    for held in gates:
        held.open()
    assert [call.answer().status for call in calls] == [0] * 8


def test_plugin_that_another_one_runs_is_served_while_that_ones_call_lasts(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(workers=1), gate()
    outer = probe(agent, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    assert probe(agent, "ADD", name="inner").answer().status == 0
    held.open()
    assert outer.answer().status == 0


def test_gc_runs_beside_no_call_of_a_container(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held, collecting = agent_process(), gate(), gate()
    calls = [probe(agent, "ADD", "c1", gate=held)]
    assert events.next() == "begin ADD c1"
    calls.append(probe(agent, "GC", "", gate=collecting))
    agent.wait_log("queued", "verb=GC")
    calls.append(probe(agent, "ADD", "c2"))
    agent.wait_log("queued", "verb=ADD")
    held.open()
    assert [events.next() for _ in range(2)] == ["end ADD c1", "begin GC"]
    assert probe(agent, "STATUS", "").answer() == DONE
    assert [events.next() for _ in range(2)] == ["begin STATUS", "end STATUS"]
    collecting.open()
    assert [events.next() for _ in range(3)] == ["end GC", "begin ADD c2", "end ADD c2"]
    assert [call.answer().status for call in calls] == [0, 0, 0]


def test_no_more_calls_run_at_once_than_there_are_workers(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(workers=1), gate()
    first = probe(agent, "ADD", "c1", gate=held)
    assert events.next() == "begin ADD c1"
    second = probe(agent, "ADD", "c2")
    agent.wait_log("queued", "container=c2")
    held.open()
    assert [events.next() for _ in range(2)] == ["end ADD c1", "begin ADD c2"]
    assert (first.answer().status, second.answer().status) == (0, 0)


def test_call_whose_deadline_passes_while_it_waits_is_not_run(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(deadline=2.0), gate()
    first = probe(agent, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    status, body = probe(agent, "DEL", cniVersion="0.4.0").answer()
    assert (status, body["code"], body["cniVersion"]) == (1, Code.TRY_AGAIN_LATER, "0.4.0")
    assert body["msg"] == "DEL: container c1 waited 2 s for calls before it"
    held.open()
    assert first.answer().status == 0
    assert probe(agent, "CHECK").answer() == DONE
    assert [events.next() for _ in range(3)] == ["end ADD c1", "begin CHECK c1", "end CHECK c1"]


def test_call_whose_caller_is_gone_before_its_turn_is_not_run(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(), gate()
    first = probe(agent, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    second = probe(agent, "ADD", ifname="gone")
    agent.wait_log("queued")
    second.process.kill()
    second.process.communicate()
    agent.wait_log("its caller left while it was queued")
    held.open()
    assert first.answer().status == 0
    assert probe(agent, "CHECK").answer() == DONE
    assert [events.next() for _ in range(3)] == ["end ADD c1", "begin CHECK c1", "end CHECK c1"]


def test_caller_that_is_gone_before_its_answer_is_logged(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent, held = agent_process(), gate()
    call = probe(agent, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    call.process.kill()
    call.process.communicate()
    held.open()
    agent.wait_log('caller="left before the answer"')


# Rejected callers


@pytest.fixture
def open_agent(agent_process: StartAgent) -> Iterator[Agent]:
    """An agent whose socket other users can reach."""
    with tempfile.TemporaryDirectory(prefix="wirespeed-agent-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        agent = agent_process(folder=folder)
        yield agent
        agent.stop()  # otherwise it would recreate the directory


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def test_socket_is_roots_alone(open_agent: Agent, shim: Path) -> None:
    assert open_agent.socket.stat().st_mode & 0o777 == 0o600
    assert open_agent.socket.parent.stat().st_mode & 0o777 == 0o700
    status, body = Call(shim, open_agent.environ("ADD"), PROBE_CONFIG, before=NOBODY).answer()
    assert (status, body["code"]) == (1, Code.IO_FAILURE)
    assert body["msg"] == f"agent at {open_agent.socket}: Permission denied"


def test_other_users_are_refused_even_if_they_can_connect(open_agent: Agent, shim: Path) -> None:
    open_agent.socket.parent.chmod(0o755)
    open_agent.socket.chmod(0o666)
    status, body = Call(shim, open_agent.environ("DEL"), PROBE_CONFIG, before=NOBODY).answer()
    assert (status, body["code"]) == (1, Code.POLICY)
    assert body["msg"] == "only root may call the agent, not user 65534"
    assert Call(shim, open_agent.environ("DEL"), PROBE_CONFIG).answer() == DONE


def framed(payload: bytes) -> bytes:
    return b"WSP1" + struct.pack(">I", len(payload)) + payload


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "expected the mark WSP1, got b'GET '"),
        (b"WSP2", "expected the mark WSP1, got b'WSP2'"),
        (b"WSP1" + struct.pack(">I", (8 << 20) + 1), "expected at most 8388608 bytes, got 8388609"),
        (b"WSP1\xff\xff\xff\xff", "expected at most 8388608 bytes, got 4294967295"),
        (framed(b"probe\0CNI_COMMAND=ADD"), "the end of the variables is missing"),
        (framed(b""), "the end of the variables is missing"),
        (framed(b"probe\0PATH=/bin\0\0{}"), "expected a variable CNI_*=VALUE, got 'PATH=/bin'"),
        (framed(b"probe\0CNI_COMMAND\0\0{}"), "expected a variable CNI_*=VALUE, got 'CNI_COMMAND'"),
        (framed(b"probe\0\0{}") + b"more", "more data follows it; expected 17 bytes"),
    ],
)
def test_what_is_no_call_is_refused_and_the_next_call_served(
    agent_process: StartAgent, probe: StartProbe, sent: bytes, message: str
) -> None:
    agent = agent_process()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(str(agent.socket))
        caller.sendall(sent)
        with caller.makefile("rb") as answer:
            status, length = struct.unpack(">II", answer.read(8))
            body = json.loads(answer.read())
    assert (status, body["code"], body["msg"]) == (1, Code.DECODING_FAILURE, f"call frame: {message}")
    assert length == len(json.dumps(body, separators=(",", ":")))
    assert probe(agent, "DEL").answer() == DONE


def test_caller_that_leaves_within_its_call_is_let_go(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()
    agent.wait_log("INFO ready")
    before = descriptors(agent)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(agent.socket))
        caller.sendall(b"WSP1\0\0")
    agent.wait_log("a caller closed its connection before its call was complete")
    assert probe(agent, "DEL").answer() == DONE
    until(lambda: descriptors(agent) == before, "without the caller's connection")


# Start


def start_and_fail(agent_process: StartAgent, **config: Any) -> str:
    """The last log line of an agent that fails to start."""
    agent = agent_process(ready=False, **config)
    assert agent.process.wait(PATIENCE) == 1
    agent.reader.join(PATIENCE)
    return agent.log[-1]


def test_second_agent_on_a_socket_is_refused(agent_process: StartAgent, probe: StartProbe, tmp_path: Path) -> None:
    first = agent_process(folder=tmp_path / "shared")
    line = start_and_fail(agent_process, folder=tmp_path / "shared")
    assert f"socket {first.socket}: another agent serves it, process {first.process.pid} code=11" in line
    assert probe(first, "DEL").answer() == DONE


def test_socket_of_a_killed_agent_is_taken_over(
    agent_process: StartAgent, probe: StartProbe, tmp_path: Path
) -> None:
    first = agent_process(folder=tmp_path / "shared")
    first.stop(signal.SIGKILL)
    assert first.socket.is_socket()
    second = agent_process(folder=tmp_path / "shared")
    assert probe(second, "DEL").answer() == DONE


def test_folder_in_which_others_may_replace_the_socket_is_refused(
    agent_process: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    line = start_and_fail(agent_process, socket=str(folder / "agent.sock"))
    assert f"socket {folder}/agent.sock: expected a folder that only its owner may write, mode 0700" in line


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"workers": 0}, 'key "workers": expected an integer from 1 to 1024, got 0'),
        ({"deadline": -1}, 'key "deadline": expected a number greater than 0 and of at most 3600, got -1'),
        ({"sockets": "/x"}, 'unknown key "sockets"; did you mean "socket"?'),
        ({"state": "/proc/nowhere/state.db"}, "journal /proc/nowhere/state.db: "),
        ({"socket": "/proc/nowhere/agent.sock"}, "socket /proc/nowhere/agent.sock: No such file or directory"),
        ({"socket": "/tmp/" + "x" * 200 + "/agent.sock"}, "AF_UNIX path too long"),
    ],
)
def test_configuration_that_cannot_be_used_ends_it_in_one_line(
    agent_process: StartAgent, config: dict[str, Any], message: str
) -> None:
    line = start_and_fail(agent_process, **config)
    assert " ERROR " in line
    assert message in line
    assert "Traceback" not in line


def test_agent_ends_when_its_device_plugin_does(agent_process: StartAgent, tmp_path: Path) -> None:
    agent = agent_process(ready=False, devicePlugin=str(tmp_path / "none.json"))
    assert agent.process.wait(PATIENCE) == 1
    agent.wait_log("the device plugin ended by itself")


# End


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_agent_that_ends_finishes_what_runs_and_takes_nothing_new(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate, shim: Path, number: signal.Signals
) -> None:
    agent, held = agent_process(), gate()
    running = probe(agent, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    agent.process.send_signal(number)
    agent.wait_log("ending", "running=1")
    until(lambda: not agent.socket.exists(), "without a socket")
    status, body = Call(shim, agent.environ("ADD", "c2", WIRESPEED_WAIT_MS="0"), PROBE_CONFIG).answer()
    assert (status, body["code"]) == (1, Code.TRY_AGAIN_LATER)
    held.open()
    assert running.answer().status == 0
    assert agent.process.wait(PATIENCE) == 0


def test_waiting_call_is_served_by_the_agent_that_follows(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate, tmp_path: Path
) -> None:
    first, held = agent_process(folder=tmp_path / "shared"), gate()
    running = probe(first, "ADD", gate=held)
    assert events.next() == "begin ADD c1"
    waiting = probe(first, "DEL")
    first.wait_log("queued", "verb=DEL")
    first.process.send_signal(signal.SIGTERM)
    first.wait_log("handed to the next agent", "verb=DEL")
    held.open()
    assert running.answer().status == 0
    assert first.process.wait(PATIENCE) == 0
    second = agent_process(folder=tmp_path / "shared")
    assert waiting.answer() == DONE
    assert events.next() == "end ADD c1"
    begun = events.next_full()
    assert (begun["verb"], begun["pid"]) == ("DEL", second.process.pid)


def test_second_signal_ends_it_at_once(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent = agent_process()
    running = probe(agent, "ADD", gate=gate())
    assert events.next() == "begin ADD c1"
    agent.process.send_signal(signal.SIGTERM)
    agent.wait_log("ending")
    assert agent.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert running.answer().body["code"] == Code.TRY_AGAIN_LATER


def test_call_that_never_ends_does_not_keep_the_agent(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate
) -> None:
    agent = agent_process(deadline=1.0)
    running = probe(agent, "ADD", gate=gate())
    assert events.next() == "begin ADD c1"
    assert agent.stop() == 1
    agent.wait_log("running calls did not end in time")
    assert running.answer().body["code"] == Code.TRY_AGAIN_LATER


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_agent_killed_within_a_call_is_try_again_later(
    agent_process: StartAgent, probe: StartProbe, events: Events, gate: NewGate, verb: str
) -> None:
    agent = agent_process()
    call = probe(agent, verb, gate=gate())
    assert events.next() == f"begin {verb} c1"
    agent.stop(signal.SIGKILL)
    status, body = call.answer()
    assert (status, body["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert body["msg"].startswith(f"agent at {agent.socket} ended before it had answered {verb}: ")


def test_sighup_ends_nothing(agent_process: StartAgent, probe: StartProbe) -> None:
    agent = agent_process()
    agent.process.send_signal(signal.SIGHUP)
    assert probe(agent, "DEL").answer() == DONE


# What it leaves behind


def test_200_calls_at_once_leave_no_descriptor_and_no_thread_behind(
    agent_process: StartAgent, probe: StartProbe, shim: Path
) -> None:
    agent = agent_process(workers=4)
    agent.wait_log("INFO ready")
    before, threads_before = descriptors(agent), threads(agent)
    for _ in range(2):
        calls = [Call(shim, agent.environ("ADD", f"c{number}"), PROBE_CONFIG) for number in range(200)]
        assert [call.answer().status for call in calls] == [0] * 200
        until(lambda: descriptors(agent) == before, "with no connection left")
        assert threads(agent) <= threads_before + 4


def test_agent_without_descriptors_left_serves_when_there_are_some_again(
    agent_process: StartAgent, probe: StartProbe
) -> None:
    agent = agent_process()
    assert probe(agent, "DEL").answer() == DONE
    agent.wait_log(" INFO served ")  # the call has no descriptor left
    _, most = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    used = max(fd for fd, _ in descriptors(agent)) + 1
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (used + 2, most))
    idle = []
    for _ in range(4):
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(str(agent.socket))
        idle.append(caller)
    agent.wait_log("no more connections for now")
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (most, most))
    call = probe(agent, "DEL")
    for caller in idle:
        caller.close()
    assert call.answer() == DONE
