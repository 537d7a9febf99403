"""Traces that an agent exports to a collector, and collectors that hang, refuse, or are not there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.calling import DONE, PROBE_CONFIG, Call
from tests.node.collector import Collector, collecting
from tests.node.conftest import PATIENCE, Agent
from tests.node.pods import World
from wirespeed import __version__
from wirespeed.agent.otlp import MAX_QUEUE

INTERNAL, SERVER = 1, 2
UNSET, ERROR = 0, 2
ARGS = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def nodes_collector(world: World) -> Iterator[Collector]:
    """A collector in the network namespace of the node."""
    world.node.run("ip", "link", "set", "lo", "up")
    with collecting(world.node.path) as made:
        yield made


def start(world: World, collector: Collector, **tracing: object) -> None:
    world.agent.stop()
    world.restart(tracing={"endpoint": collector.endpoint, **tracing}, nodeName="n1")


@pytest.fixture
def call(shim: Path) -> Callable[..., Call]:
    """Call an agent's probe plugin: `call(agent, "DEL", "c1", fail=7)`."""

    def begin(agent: Agent, verb: str, container: str = "c1", **config: object) -> Call:
        return Call(shim, agent.environ(verb, container, CNI_ARGS=ARGS), {**PROBE_CONFIG, **config})

    return begin


def threads(agent: Agent) -> list[str]:
    tasks = Path(f"/proc/{agent.process.pid}/task").iterdir()
    return [(task / "comm").read_text().strip() for task in tasks]


def test_add_of_a_pod_is_a_span_with_a_span_for_each_step(world: World, nodes_collector: Collector) -> None:
    more = {"k8s.cluster.name": "west"}
    start(world, nodes_collector, attributes=more)
    pod = world.pod("p", "bridged")
    world.add(pod)
    export = nodes_collector.next()
    assert export.resource == {
        "service.name": "wirespeed-agent",
        "service.version": __version__,
        "host.name": socket.gethostname(),
        "k8s.node.name": "n1",
        **more,
    }
    root = export.root
    assert (root.name, root.kind, root.code) == ("ADD wirespeed", SERVER, UNSET)
    assert root.attributes == {
        "cni.command": "ADD",
        "cni.plugin": "wirespeed",
        "cni.ifname": "eth0",
        "container.id": "c-p",
        "k8s.namespace.name": "default",
        "k8s.pod.name": "p",
        "k8s.pod.uid": "uid-p",
    }
    by_id = {span.id: span for span in export.spans}
    assert len(by_id) == len(export.spans)
    for span in export.spans:
        assert span.trace == root.trace
        if span.parent:
            parent = by_id[span.parent]
            assert span.kind == INTERNAL
            assert parent.began <= span.began <= span.ended <= parent.ended
    attached = [span for span in export.spans if span.name == "attach"]
    assert [span.parent for span in attached] == [root.id, root.id]
    assert attached[1].attributes == {"wirespeed.network": "default/bridged", "cni.ifname": "net1"}
    assert "plugin bridge" in [span.name for span in export.spans if span.parent == attached[1].id]
    assert f"trace={root.trace}" in world.agent.wait_log("INFO served", "verb=ADD")


def test_failed_call_has_the_status_error_with_its_message_in_the_step_that_failed(
    world: World, nodes_collector: Collector
) -> None:
    start(world, nodes_collector)
    world.script("bad")
    world.fail("bad", "ADD", {"code": 117, "msg": "no luck"})
    world.define("bad", {"cniVersion": "1.0.0", "type": "bad"})
    code, message = world.refused("ADD", world.pod("p", "bad"))
    export = nodes_collector.next()
    assert (export.root.code, export.root.message) == (ERROR, message)
    assert export.root.attributes["error.type"] == str(code)
    failed = [span.name for span in export.spans if span.code == ERROR and span.parent]
    assert failed == ["attach", "plugin bad"]
    assert "no luck" in next(span.message for span in export.spans if span.name == "plugin bad" and span.code)


def test_sample_without_any_successful_call_has_the_failed_ones(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    agent = agent_process(tracing={"endpoint": collector.endpoint, "ratio": 0})
    assert call(agent, "DEL").answer() == DONE
    assert call(agent, "DEL", "c2", fail=7).answer().status == 1
    assert collector.next().root.attributes["container.id"] == "c2"


def test_without_the_key_there_is_neither_a_thread_nor_the_exporters_module(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    agent = agent_process(forked=False, environ={"PYTHONVERBOSE": "1"})
    exporting = agent_process(
        forked=False, environ={"PYTHONVERBOSE": "1"}, tracing={"endpoint": collector.endpoint}
    )
    for each in (agent, exporting):
        assert call(each, "DEL").answer() == DONE
    assert len(threads(exporting)) == len(threads(agent)) + 1
    assert [any("wirespeed.agent.otlp" in line for line in each.log) for each in (agent, exporting)] == [
        False,
        True,
    ]


def test_call_is_answered_while_the_collector_hangs_and_the_agent_ends_before_its_request_does(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    collector.hold()
    assert call(agent, "DEL").answer() == DONE
    assert collector.held.acquire(timeout=PATIENCE)
    for _ in range(3):
        assert call(agent, "DEL").answer() == DONE
    assert agent.stop() == 0
    agent.wait_log("WARNING traces: 4 calls were not exported to", collector.endpoint)
    assert not any("timed out" in line for line in agent.log)


def test_calls_beyond_the_queue_are_dropped_and_counted(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    collector.hold()
    assert call(agent, "DEL").answer() == DONE
    assert collector.held.acquire(timeout=PATIENCE)
    for _ in range(MAX_QUEUE + 9):
        assert call(agent, "DEL").answer() == DONE
    assert agent.stop() == 0
    agent.wait_log(f"WARNING traces: {MAX_QUEUE + 10} calls were not exported to")


def test_calls_are_sent_once_the_collector_is_there(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    collector.status = 503
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    assert call(agent, "DEL").answer() == DONE
    agent.wait_log("WARNING traces cannot be exported: 503 Service Unavailable", "dropped=0")
    refused = collector.next()
    collector.status = 200
    assert collector.next().root.trace == refused.root.trace
    assert agent.stop() == 0
    assert not any("calls were not exported" in line for line in agent.log)


def test_calls_that_the_collector_refuses_are_dropped(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    collector.status = 400
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    assert call(agent, "DEL", "c1").answer() == DONE
    agent.wait_log("WARNING traces cannot be exported: 400 Bad Request", "dropped=1")
    assert collector.next().root.attributes["container.id"] == "c1"
    collector.status = 200
    assert call(agent, "DEL", "c2").answer() == DONE
    assert collector.next().root.attributes["container.id"] == "c2"


def test_spans_that_the_collector_rejects_are_logged_with_its_reason(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    collector.answer = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too old"}}'
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    assert call(agent, "DEL").answer() == DONE
    agent.wait_log("WARNING traces cannot be exported: 2 spans rejected: too old")


def test_agent_without_a_collector_serves_and_ends(
    agent_process: Callable[..., Agent], call: Callable[..., Call]
) -> None:
    with socket.socket() as taken:  # nobody listens at its port
        taken.bind(("127.0.0.1", 0))
        agent = agent_process(tracing={"endpoint": f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces"})
        assert call(agent, "DEL").answer() == DONE
        agent.wait_log("WARNING traces cannot be exported:", "Connection refused")
        assert call(agent, "DEL").answer() == DONE
        assert agent.stop() == 0
    agent.wait_log("WARNING traces: 2 calls were not exported to")


def test_last_calls_are_sent_when_the_agent_ends(
    agent_process: Callable[..., Agent], call: Callable[..., Call], collector: Collector
) -> None:
    agent = agent_process(tracing={"endpoint": collector.endpoint})
    collector.hold()
    assert call(agent, "DEL", "c1").answer() == DONE
    assert collector.held.acquire(timeout=PATIENCE)
    assert call(agent, "DEL", "c2").answer() == DONE
    collector.release()
    assert agent.stop() == 0
    sent = [collector.next().root.attributes["container.id"] for _ in range(2)]
    assert sent == ["c1", "c2"]
