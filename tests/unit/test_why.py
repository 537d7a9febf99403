"""`wirespeed why` and `status` without an agent: pods that no call was made for, and how views are written out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.errors import Code
from wirespeed.errors import Error
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.observe import lines
from wirespeed.observe.status import LAST_ERRORS, last_errors, status
from wirespeed.observe.why import why
from wirespeed.state.calls import Call
from wirespeed.trace import Step

Pod = Callable[..., None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose cluster is the directory `manifests`, without an agent and without a kubelet."""
    (tmp_path / "manifests").mkdir()
    config = NodeConfig(
        state=str(tmp_path / "run/state.db"),
        attachments=str(tmp_path / "attachments"),
        kubelet=str(tmp_path / "kubelet"),
        cluster=ClusterConfig(manifests=str(tmp_path / "manifests")),
        node_name="n1",
    )
    with closing(Node(config, once=True)) as found:
        yield found


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    """Write the manifest of pod default/p, with its status."""

    def write(spec: Any = None, status: Any = None, networks: str = "") -> None:
        metadata = {"name": "p", "namespace": "default", "annotations": {"k8s.v1.cni.cncf.io/networks": networks}}
        value = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": spec or {},
            "status": status or {},
        }
        (tmp_path / "manifests/p.json").write_text(json.dumps(value))

    return write


def call(**more: Any) -> Call:
    values: dict[str, Any] = {"trace": "0" * 32, "verb": "ADD", "plugin": "meta", "at": 1.0, "seconds": 0.5}
    return Call(**{**values, "pod": "default/p", **more})


def test_pod_that_no_node_takes_is_answered_with_the_schedulers_reason(node: Node, pod: Pod) -> None:
    message = "0/1 nodes are available: 1 Insufficient intel.com/left_dpdk."
    pod(status={"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]})
    found = why(node, "p")
    assert found.answer == f"the scheduler finds no node for it: {message}"
    assert "kubectl describe node" in found.advice[0]


def test_pod_that_is_not_yet_scheduled(node: Node, pod: Pod) -> None:
    pod()
    assert why(node, "p").answer == "it is not scheduled yet"


def test_pod_of_the_nodes_network_has_no_call(node: Node, pod: Pod) -> None:
    pod({"hostNetwork": True, "nodeName": "n1"})
    assert "hostNetwork" in why(node, "p").answer


def test_pod_that_the_kubelet_refused_is_answered_with_its_reason(node: Node, pod: Pod) -> None:
    pod(
        {"nodeName": "n1"},
        {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed due to no device"},
    )
    answer = why(node, "p").answer
    assert answer == "the kubelet refused it: UnexpectedAdmissionError: Allocate failed due to no device"


def test_pod_of_another_node_names_that_node(node: Node, pod: Pod) -> None:
    pod({"nodeName": "n2"})
    found = why(node, "p")
    assert found.answer == "it is on node n2; this is node n1"
    assert found.advice == ("run `wirespeed why` on node n2",)


def test_pod_that_the_runtime_has_not_called_for(node: Node, pod: Pod) -> None:
    pod({"nodeName": "n1"}, networks="left")
    found = why(node, "p")
    assert found.answer.startswith("the runtime has not called the agent for it")
    assert [(each.network, each.state) for each in found.networks] == [("default/left", "not attached")]


def test_unknown_pod_is_an_error_that_says_where_to_look(node: Node) -> None:
    with pytest.raises(Error, match="pod default/p: no call for it is known on this node; the API server has no"):
        why(node, "p")


def test_wrong_annotation_is_said_and_does_not_hide_the_rest(node: Node, pod: Pod) -> None:
    pod({"nodeName": "n1"}, networks='[{"name": ')
    found = why(node, "p")
    assert found.networks == ()
    assert any("k8s.v1.cni.cncf.io/networks" in fault for fault in found.faults)


def test_failed_call_is_the_answer_until_one_succeeds(node: Node, pod: Pod) -> None:
    pod({"nodeName": "n1"})
    Path(node.config.state).parent.mkdir()
    steps = [
        Step("attach", 0.1, 0.2, about={"network": "default/left"}, error="plugin x: device y: no driver"),
        Step("bind the driver", 0.1, 0.1, parent=0, error="device y: no driver"),
    ]
    for at in (1.0, 2.0):
        node.calls.append(call(at=at, code=int(Code.DEVICE), error="device y: no driver", steps=steps))
        node.calls.append(call(at=at, verb="DEL"))
    found = why(node, "p")
    assert found.answer == "ADD fails at: attach network=default/left > bind the driver"
    assert found.failure is not None
    assert (found.failure.count, found.failure.first, found.failure.last) == (2, 1.0, 2.0)
    assert "wirespeed doctor" in found.advice[0]
    node.calls.append(call(at=3.0))
    assert why(node, "p").failure is None


def test_calls_of_an_earlier_pod_with_the_same_name_are_not_this_ones(node: Node, pod: Pod, tmp_path: Path) -> None:
    pod({"nodeName": "n1"})
    manifest = json.loads((tmp_path / "manifests/p.json").read_text())
    manifest["metadata"]["uid"] = "new"
    (tmp_path / "manifests/p.json").write_text(json.dumps(manifest))
    Path(node.config.state).parent.mkdir()
    node.calls.append(call(uid="old", code=7, error="old"))
    node.calls.append(call(uid="new"))
    assert [each.uid for each in why(node, "p").calls] == ["new"]


@pytest.mark.parametrize("code", [*Code, 999])
def test_each_error_has_advice(node: Node, pod: Pod, code: int) -> None:
    pod({"nodeName": "n1"})
    Path(node.config.state).parent.mkdir()
    node.calls.append(call(code=int(code), error="no"))
    assert len(why(node, "p").advice) == 1


def test_errors_are_the_newest_first_and_equal_ones_are_one() -> None:
    calls = [call(at=float(at), code=7, error=f"error {at % 20}") for at in range(40)]
    found = last_errors(iter(calls))
    assert [(each.error, each.count) for each in found[:2]] == [("error 19", 2), ("error 18", 2)]
    assert len(found) == 20


def test_status_without_an_agent_creates_nothing(node: Node, tmp_path: Path) -> None:
    found = status(node)
    assert (found.agent, found.pools, found.attachments, found.faults) == (None, (), (), ())
    assert not (tmp_path / "run").exists()


def test_no_more_errors_are_shown_than_fit_on_a_screen(node: Node) -> None:
    Path(node.config.state).parent.mkdir()
    for at in range(LAST_ERRORS + 5):
        node.calls.append(call(at=float(at), code=7, error=f"error {at}"))
    assert len(status(node).errors) == LAST_ERRORS


def test_steps_are_written_as_a_tree_and_the_innermost_failure_is_marked() -> None:
    steps = [
        Step("read the pod", 0.0, 0.001),
        Step("attach", 0.001, 0.1, about={"network": "default/left"}, error="no"),
        Step("plugin x", 0.002, 0.09, parent=1, error="no"),
        Step("undo", 0.2, 0.1),
    ]
    written = list(lines.call_lines(call(code=7, ifname="eth0", error="no", steps=steps)))
    assert written[0].endswith("ADD eth0: failed with code 7 after 500.0 ms  trace " + "0" * 32)
    assert written[1:] == [
        "        0.0       1.0 ms  read the pod",
        "        1.0     100.0 ms  attach network=default/left",
        "        2.0      90.0 ms    plugin x  FAILED",
        "      200.0     100.0 ms  undo",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0123, "12.3 ms"),
        (4.21, "4.2 s"),
        (200, "3 min 20 s"),
        (5 * 3600 + 7 * 60, "5 h 7 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_are_written_in_two_units_at_most(seconds: float, expected: str) -> None:
    assert lines.duration(seconds) == expected
