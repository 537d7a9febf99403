"""The pods of `kubectl wirespeed measure`, and the messages of the connection to the command that it runs."""

from __future__ import annotations

import signal
from collections import deque
from typing import Any, cast

import pytest
from websocket import ABNF, WebSocketTimeoutException

from image.recipe import PREFIX
from tests import podrules
from wirespeed.cli.kubectl import measuring
from wirespeed.cli.kubectl.measuring import Network, pod
from wirespeed.cli.kubectl.session import AgentPod
from wirespeed.kube import execute
from wirespeed.kube.api import UnreachableError

AGENT = AgentPod(
    node="n1",
    namespace="kube-system",
    name="wirespeed-x",
    port=0,
    waits="",
    ready=True,
    image="registry.example/wirespeed:1",
    tolerations=({"key": "dpdk", "operator": "Exists"},),
)


def container(made: dict[str, Any]) -> dict[str, Any]:
    (found,) = made["spec"]["containers"]
    return cast(dict[str, Any], found)


def test_pod_gets_the_device_of_its_network_on_the_node_of_the_agent() -> None:
    made = pod("measure-1", "1a2b", Network("shop/fast", "intel.com/vf"), AGENT, "")
    assert list(podrules.problems(made)) == []
    assert made["metadata"] == {
        "name": "measure-1",
        "namespace": "shop",
        "labels": {"wirespeed/measure": "1a2b"},
        "annotations": {"k8s.v1.cni.cncf.io/networks": "shop/fast@net1"},
    }
    assert container(made)["resources"]["limits"] == {"memory": "64Mi", "intel.com/vf": "1"}
    affinity = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    rule = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    assert affinity == {"nodeSelectorTerms": [{"matchFields": [rule]}]}
    assert "nodeName" not in made["spec"]  # only the scheduler counts devices
    assert made["spec"]["tolerations"] == [{"key": "dpdk", "operator": "Exists"}]


def test_pod_of_a_network_without_a_resource_asks_for_no_device() -> None:
    made = pod("measure-1", "1a2b", Network("shop/bridged", ""), AGENT, "")
    assert container(made)["resources"]["limits"] == {"memory": "64Mi"}


def test_image_of_the_agent_waits_with_its_own_interpreter_and_another_one_with_sleep() -> None:
    own = container(pod("measure-1", "1a2b", Network("shop/fast", ""), AGENT, ""))
    assert (own["image"], own["command"][0]) == (AGENT.image, "/opt/wirespeed/bin/python3")
    other = container(pod("measure-1", "1a2b", Network("shop/fast", ""), AGENT, "busybox"))
    assert (other["image"], other["command"]) == ("busybox", ["sleep", "infinity"])


def test_interpreter_is_where_the_image_of_the_agent_has_it() -> None:
    assert f"/{PREFIX}/bin/python3" == measuring._PYTHON


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_ends_the_program_ends_it_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), measuring.interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


class Socket:
    """A connection from which these messages come; None is a time without one."""

    def __init__(self, *messages: tuple[int, bytes] | None) -> None:
        self.pings = 0
        self._messages = deque(messages)

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def ping(self) -> None:
        self.pings += 1

    def recv_data_frame(self, control: bool) -> tuple[int, ABNF]:
        assert control
        message = self._messages.popleft()
        if message is None:
            raise WebSocketTimeoutException("Connection timed out")
        return message[0], ABNF(opcode=message[0], data=message[1])


PONG = (ABNF.OPCODE_PONG, b"")
END = (ABNF.OPCODE_CLOSE, b"")


def test_other_side_that_answers_a_ping_may_be_silent_for_long() -> None:
    socket = Socket(None, PONG, None, PONG, (ABNF.OPCODE_BINARY, b"\1text"), END)
    assert list(execute._messages(socket)) == [(1, b"text")]
    assert socket.pings == 2


def test_other_side_that_does_not_answer_a_ping_is_gone() -> None:
    with pytest.raises(UnreachableError, match="the connection has been silent for 40 s"):
        list(execute._messages(Socket(None, None)))


def test_lines_are_told_when_they_are_complete() -> None:
    told: list[str] = []
    lines = execute._Lines(told.append)
    for piece in (b"10 \xc2", b"\xb5s\n20", b"", b" s\nno end"):
        lines.add(piece)
    assert told == ["10 \xb5s", "20 s"]
    lines.end()
    assert told[2:] == ["no end"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (b"{}", "its result is not understood: Object missing required field `status`"),
        (b'{"status":"Failure","message":"no such\\ncontainer"}', "no such container"),
        (b'{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}', "is not understood"),
    ],
)
def test_result_without_an_exit_status_is_an_error(result: bytes, message: str) -> None:
    with pytest.raises(execute.ExecuteError, match=message):
        execute._exit_status(result)
