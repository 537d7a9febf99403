"""The log level of a running agent is changed by command. These agents start with the level debug."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.calling import PROBE_CONFIG, Call
from tests.node.conftest import PATIENCE, ROOT, Agent
from tests.node.test_metrics import look, sample, served
from wirespeed.agent import client, frame
from wirespeed.cni.errors import PluginError

StartAgent = Callable[..., Agent]


def log_level(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wirespeed", "agent", "log-level", *arguments, "--config", str(agent.config)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def told(agent: Agent, *arguments: str) -> list[str]:
    """The output of the command, which must succeed."""
    run = log_level(agent, *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def await_logged(agent: Agent, shim: Path, container: str) -> None:
    """Make a call, and wait for the line that tells of it ("served", of the level info)."""
    assert Call(shim, agent.environ("DEL", container), PROBE_CONFIG).answer().status == 0
    agent.wait_log("served", f"container={container} ")


def is_logged(agent: Agent, shim: Path, container: str) -> bool:
    """Whether a call is logged before a later one that fails, which every level shows."""
    assert Call(shim, agent.environ("DEL", container), PROBE_CONFIG).answer().status == 0
    later = f"{container}-later"
    assert Call(shim, agent.environ("DEL", later), {**PROBE_CONFIG, "fail": 7}).answer().status == 1
    agent.wait_log("ERROR failed", f"container={later}")
    return any("served" in line and f"container={container} " in line for line in agent.log)


def test_level_of_all_modules_is_changed_and_returns_with_default(agent_process: StartAgent, shim: Path) -> None:
    agent = agent_process()
    assert told(agent) == ["all modules: debug"]
    await_logged(agent, shim, "c1")
    assert told(agent, "error") == ["all modules: debug -> error"]
    assert not is_logged(agent, shim, "c2")
    assert told(agent, "default") == ["all modules: error -> debug"]
    await_logged(agent, shim, "c3")


def test_level_of_one_module_leaves_the_others(agent_process: StartAgent, shim: Path) -> None:
    agent = agent_process()
    told(agent, "error")
    assert told(agent, "info", "--module", "wirespeed.agent") == ["wirespeed.agent: error -> info"]
    assert told(agent) == ["all modules: error", "wirespeed.agent: info"]
    assert told(agent, "--module", "wirespeed.agent.server") == ["wirespeed.agent.server: info"]
    assert told(agent, "--module", "wirespeed.kube") == ["wirespeed.kube: error"]
    await_logged(agent, shim, "c1")
    assert told(agent, "default", "--module", "wirespeed.agent") == ["wirespeed.agent: info -> error"]
    assert not is_logged(agent, shim, "c2")


def test_default_for_all_modules_ends_the_levels_of_single_ones_too(agent_process: StartAgent) -> None:
    agent = agent_process()
    told(agent, "error", "--module", "wirespeed.kube")
    told(agent, "warning", "--module", "wirespeed.agent", "--for", "1h")
    told(agent, "default", "--for", "1h")
    assert len(told(agent)) == 3
    told(agent, "default")
    assert told(agent) == ["all modules: debug"]


def test_level_for_some_time_returns_by_itself_to_the_lasting_one(agent_process: StartAgent, shim: Path) -> None:
    agent = agent_process()
    told(agent, "info")
    assert told(agent, "error", "--for", "1h") == ["all modules: info -> error for 1h"]
    assert told(agent) == ["all modules: error, then info"]
    assert not is_logged(agent, shim, "c1")
    assert told(agent, "warning", "--for", "1s") == ["all modules: error -> warning for 1s"]
    agent.wait_log("the log level returned")
    assert told(agent) == ["all modules: info"]
    await_logged(agent, shim, "c2")


def test_a_lasting_level_ends_the_one_for_some_time(agent_process: StartAgent) -> None:
    agent = agent_process()
    told(agent, "error", "--module", "wirespeed.kube", "--for", "1h")
    assert told(agent) == ["all modules: debug", "wirespeed.kube: error, then default"]
    told(agent, "warning", "--module", "wirespeed.kube")
    assert told(agent) == ["all modules: debug", "wirespeed.kube: warning"]


def test_levels_are_those_of_the_start_again_after_a_restart(agent_process: StartAgent, tmp_path: Path) -> None:
    agent = agent_process(folder=tmp_path / "agent")
    told(agent, "error")
    told(agent, "info", "--module", "wirespeed.kube")
    agent.stop()
    assert told(agent_process(folder=tmp_path / "agent")) == ["all modules: debug"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("info", "--module", "wirespeed.kub"),
            1,
            "no such module; expected a Python module that logs, such as wirespeed.kube, got 'wirespeed.kub'; "
            'did you mean "wirespeed.kube"?',
        ),
        (("loud",), 2, "'loud' is not one of"),
        (
            ("info", "--for", "8d"),
            2,
            "expected a duration from 1ms to 168h, such as 500ms, 90s, 10m or 1h, got '8d'",
        ),
        (("--for", "10m"), 2, "--for needs a LEVEL"),
    ],
)
def test_what_cannot_be_set_is_refused(
    agent_process: StartAgent, arguments: tuple[str, ...], status: int, message: str
) -> None:
    agent = agent_process()
    run = log_level(agent, *arguments)
    assert (run.returncode, run.stdout) == (status, "")
    assert message in run.stderr
    assert told(agent) == ["all modules: debug"]


def test_a_module_that_is_not_loaded_yet_logs_from_its_level(agent_process: StartAgent) -> None:
    agent = agent_process()
    module = "wirespeed.provision.plan"  # what no agent loads
    assert told(agent, "error", "--module", module) == [f"{module}: debug -> error"]


def test_a_call_that_is_not_understood_is_refused(agent_process: StartAgent) -> None:
    agent = agent_process()
    for stdin in (b"{", json.dumps({"level": "loud"}).encode(), json.dumps({"seconds": -1}).encode()):
        call = frame.Call("agent", {"CNI_COMMAND": "LOGLEVEL"}, stdin)
        with pytest.raises(PluginError, match="LOGLEVEL: standard input"):
            client.ask(str(agent.socket), call, timeout=PATIENCE)


def test_it_is_counted_as_a_call_of_the_agent_and_without_one_the_command_fails(agent_process: StartAgent) -> None:
    agent = agent_process(metrics="127.0.0.1:0")
    address = served(agent)
    told(agent, "info")
    agent.wait_log("served", "verb=LOGLEVEL")
    samples = look(address)
    assert sample(samples, "wirespeed_cni_requests_total", plugin="agent", verb="LOGLEVEL", code="0") == 1
    agent.stop()
    run = log_level(agent, "info")
    assert run.returncode == 1
    assert "agent at " in run.stderr
