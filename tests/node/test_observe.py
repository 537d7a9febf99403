"""`wirespeed status` and `wirespeed why` beside a real agent: pods that are attached, stuck or gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.node.calling import DONE, Call, Gate, until
from tests.node.conftest import Agent
from tests.node.deviceplugins import pool_of_vfs
from tests.node.pods import Pod, World
from wirespeed.agent import frame
from wirespeed.agent.client import call_agent


def run(config: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "COLUMNS": "20"}  # nothing is cut to the width of a terminal that is not there
    return subprocess.run(
        [sys.executable, "-m", "wirespeed", *command, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def told(config: Path, *command: str) -> str:
    done = run(config, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(config: Path, *command: str) -> Any:
    return json.loads(told(config, *command, "--json"))


def test_pod_that_is_attached_is_told_with_the_steps_of_its_add(world: World) -> None:
    world.define("left", world.conflist("left", world.bridge("10.81.0.0/24")))
    pod = world.pod("p", "left")
    world.add(pod)
    found = as_json(world.agent.config, "why", "p")
    assert found["answer"] == "attached: eth0 (pods), net1 (default/left)"
    assert found["networks"] == [{"network": "default/left", "interface": "net1", "state": "attached"}]
    (call,) = found["calls"]
    steps = {each["name"]: each for each in call["steps"]}
    assert steps["plugin bridge"]["seconds"] > 0
    top = sum(each["seconds"] for each in call["steps"] if each.get("parent", -1) == -1)
    assert 0 < top <= call["seconds"]
    text = told(world.agent.config, "why", "default/p")
    assert text.startswith("pod default/p on ")
    assert "  attach network=default/left ifname=net1\n" in text
    assert f"trace {call['trace']}" in text


def test_pod_whose_network_fails_is_told_with_the_step_the_error_and_the_number_of_attempts(world: World) -> None:
    world.define("left", world.conflist("left", world.bridge("10.82.0.0/30")))  # room for one pod
    world.add(world.pod("first", "left"))
    pod = world.pod("second", "left")
    for _ in range(3):
        world.refused("ADD", pod)
        assert world.call("DEL", pod) == DONE
    found = as_json(world.agent.config, "why", "second")
    failure = found["failure"]
    assert failure["verb"] == "ADD"
    assert failure["path"] == ["attach network=default/left ifname=net1", "plugin bridge"]
    assert "no IP addresses available" in failure["error"]
    assert failure["count"] == 3
    assert failure["first"] < failure["last"]
    assert found["networks"] == [{"network": "default/left", "interface": "", "state": "not attached"}]
    text = told(world.agent.config, "why", "second")
    assert "  error:  " in text
    assert "3 times" in text
    assert "  do:     " in text
    assert text.count("  FAILED\n") == 1, text
    state = as_json(world.agent.config, "status")
    (error,) = state["errors"]
    assert (error["pod"], error["verb"], error["count"]) == ("default/second", "ADD", 3)
    assert "default/second (3 times)" in told(world.agent.config, "status")


def hanging_add(world: World, folder: Path) -> tuple[Pod, Call, Gate]:
    """Begin an ADD whose plugin waits at the gate, and wait until it does."""
    gate = Gate(folder / "gate")
    world.script("slow", f'[ "$CNI_COMMAND" = ADD ] && echo here > {folder}/here && cat {gate.path} > /dev/null')
    world.define("slow", world.conflist("slow", {"type": "slow"}))
    pod = world.pod("p", "slow")
    call = world.begin("ADD", pod)
    until((folder / "here").exists, "the plugin runs")
    return pod, call, gate


def test_call_that_hangs_is_told_with_the_step_that_it_is_in(world: World, tmp_path: Path) -> None:
    _, call, gate = hanging_add(world, tmp_path)
    text = told(world.agent.config, "why", "p")
    assert ": ADD has been running for " in text
    assert text.splitlines()[0].endswith(": attach > plugin slow")
    assert "running: ADD of default/p for " in told(world.agent.config, "status")
    gate.open()
    call.answer()


def test_failure_stays_the_answer_while_the_call_is_repeated(world: World, tmp_path: Path) -> None:
    world.script("slow")
    world.define("slow", world.conflist("slow", {"type": "slow"}))
    world.fail("slow", "ADD", {"code": 7, "msg": "no card"})
    assert world.refused("ADD", world.pod("p", "slow"))[0] == 7
    world.fail("slow", "ADD", None)
    _, call, gate = hanging_add(world, tmp_path)
    answer, *rest = told(world.agent.config, "why", "p").splitlines()
    assert re.search(r": ADD fails at: .*plugin slow; ADD has been running for .*: attach > plugin slow$", answer)
    assert rest[0].endswith("plugin slow: no card")
    assert any(line.startswith("  do:  ") for line in rest)
    gate.open()
    call.answer()


def test_pod_that_nothing_is_known_of_is_one_clear_error(world: World) -> None:
    done = run(world.agent.config, "why", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: pod default/nobody: no call for it is known on this node")
    assert done.stderr.count("\n") == 1


def test_history_of_a_pod_outlives_the_agent_that_served_it_and_is_told_without_one(world: World) -> None:
    pod = world.pod("p")
    world.add(pod)
    assert world.agent.stop() == 0
    assert as_json(world.agent.config, "why", "p")["calls"][0]["verb"] == "ADD"
    text = told(world.agent.config, "status")
    assert "no agent answers" in text.splitlines()[0]
    assert "default/p" in text
    world.restart()
    assert as_json(world.agent.config, "why", "p")["calls"][0]["verb"] == "ADD"


def test_attachment_of_a_killed_agent_is_a_problem_until_its_del(world: World, tmp_path: Path) -> None:
    pod, call, gate = hanging_add(world, tmp_path)
    world.agent.process.kill()
    world.agent.process.wait()
    world.restart()
    found = {each["interface"]: each["problem"] for each in as_json(world.agent.config, "status")["attachments"]}
    assert found["net1"] == "its ADD was interrupted: a DEL or GC undoes it"
    text = told(world.agent.config, "status")
    assert "  problem: default/p net1: its ADD was interrupted" in text
    gate.open()
    call.process.kill()
    assert world.call("DEL", pod) == DONE
    assert as_json(world.agent.config, "status")["attachments"] == []


def test_pools_are_told_with_what_the_kubelet_gave_and_why_a_device_is_unhealthy(
    agent_process: Callable[..., Agent], tmp_path: Path
) -> None:
    def pool(agent: Agent) -> dict[str, Any]:
        (found,) = as_json(agent.config, "status")["pools"]
        return found  # type: ignore[no-any-return]

    with pool_of_vfs(tmp_path) as (kubelet, sysfs, keys):
        agent = agent_process(**keys)
        kubelet.wait_for("intel.com/vfs", 4, 60)
        before = pool(agent)
        assert (before["resource"], before["devices"], before["allocated"], before["free"]) == (
            "intel.com/vfs",
            4,
            0,
            4,
        )
        assert "intel.com/vfs        4          0     4          0\n" in told(agent.config, "status")
        kubelet.allocate("default", "vfw", "testpmd", "intel.com/vfs", 1)
        assert (pool(agent)["allocated"], pool(agent)["free"]) == (1, 3)
        sysfs.set_interface("ens1f0", "operstate", "down")
        until(lambda: len(pool(agent)["unhealthy"]) == 4, "the VFs are unhealthy")
        assert pool(agent)["free"] == 0
        assert "  unhealthy: 0000:19:00.0: PF ens1f0 has no carrier\n" in told(agent.config, "status")


def test_unknown_view_and_argument_are_refused(world: World) -> None:
    for body, text in (
        ({"view": "sky"}, "expected a view: status, why, topology, rates, doctor"),
        ({"view": "status", "arguments": {"pod": "p"}}, "unknown argument"),
        ({"view": "why"}, "missing argument: pod"),
        ({"vue": "why"}, "unknown field"),
    ):
        call = frame.Call("agent", {"CNI_COMMAND": frame.VIEW}, json.dumps(body).encode())
        code, answer = call_agent(str(world.agent.socket), call, timeout=60)
        assert code == 1
        assert text in json.loads(answer)["msg"]


def test_agent_answers_the_other_views_too(world: World) -> None:
    def view(name: str, **arguments: str) -> Any:
        body = json.dumps({"view": name, "arguments": arguments}).encode()
        call = frame.Call("agent", {"CNI_COMMAND": frame.VIEW}, body)
        code, answer = call_agent(str(world.agent.socket), call, timeout=60)
        assert code == 0, answer
        return json.loads(answer)

    assert view("topology")["node"] == as_json(world.agent.config, "status")["node"]
    first = view("rates")
    again = view("rates")
    assert first["seconds"] > 0.4
    assert again["time"] >= first["time"]
    assert {each["severity"] for each in view("doctor")} >= {"ok", "unknown"}
