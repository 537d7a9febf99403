"""The log of traced calls: the trace id in each line of a call, and a line for each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.node.calling import PROBE_CONFIG, Call
from tests.node.conftest import Agent, Netns

StartAgent = Callable[..., Agent]


def trace_of(line: str) -> str:
    return line.partition(" trace=")[2].split()[0]


def test_every_line_of_a_call_has_its_trace_id_and_each_step_is_a_line_for_debugging(
    agent_process: StartAgent, shim: Path, netns: Callable[[], Netns]
) -> None:
    agent = agent_process()
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_UID=7"
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "uid": "7"}}
    (agent.config.parent / "manifests/p.json").write_text(json.dumps(pod))
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "wirespeed", "delegates": [PROBE_CONFIG]}
    ended = []
    for container in ("c1", "c2"):
        environ = agent.environ("ADD", container, CNI_NETNS=netns().path, CNI_ARGS=args, CNI_IFNAME="eth0")
        assert Call(shim, environ, config, name="wirespeed").answer().status == 0
        ended.append(trace_of(agent.wait_log(" INFO served ", f"container={container}")))
    assert len(ended[0]) == 32
    assert ended[0] != ended[1]
    for trace in ended:
        lines = [line for line in agent.log if f" trace={trace}" in line]
        steps = [line for line in lines if " DEBUG step: " in line]
        assert all(" pod=default/p " in line and " ms=" in line for line in steps)
        assert any(" step: attach " in line and " network=net ifname=eth0" in line for line in steps)
        event = "event of pod default/p: AddedInterface"
        assert any(event in line for line in lines)  # logged by another part of the agent, during the call
    call_lines = [line for line in agent.log if "event of pod" in line or "step: " in line or "INFO served" in line]
    assert {trace_of(line) for line in call_lines} == set(ended)


def test_step_that_failed_is_a_warning_with_its_error_and_trace_id(
    agent_process: StartAgent, shim: Path, netns: Callable[[], Netns]
) -> None:
    agent = agent_process()
    probed = {**PROBE_CONFIG, "fail": 7, "deviceID": "0000:18:02.0"}
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "wirespeed", "delegates": [probed]}
    environ = agent.environ("ADD", CNI_NETNS=netns().path, CNI_IFNAME="eth0")
    assert Call(shim, environ, config, name="wirespeed").answer().status == 1
    line = agent.wait_log(" WARNING step: attach ")
    for part in ("network=net", "ifname=eth0", 'error="', "the probe was told to fail"):
        assert part in line
    assert trace_of(agent.wait_log(" ERROR failed ")) == trace_of(line)
