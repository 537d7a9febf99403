"""Six pods that do not start, as a user meets them: one command on the agent says why, and what to do.

With WIRESPEED_TRANSCRIPT, the commands and their output are written to that file; docs/stuck.svg is made from it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube, Object
from tests.cluster.manifests import bridge, nad, pod

# The pod, and what the first line of `wirespeed why` and its error must say.
STUCK = {
    "no-network": ("ADD fails at: resolve the networks", "the API server has no such object"),
    "wrong-key": (
        r"ADD fails at: attach network=\S+/wrong ifname=net1 > plugin wirespeed-vhost",
        'did you mean "engine"',
    ),
    "no-plugin": ("ADD fails at: check the networks", "macvlam"),
    "no-address": (
        r"ADD fails at: attach network=\S+/full ifname=net1 > plugin bridge",
        "no IP addresses available",
    ),
    "no-switch": (
        r"ADD fails at: attach network=\S+/switched ifname=net1 > plugin wirespeed-vhost",
        "Open vSwitch",
    ),
    "no-device": ("the scheduler finds no node for it: .*Insufficient intel.com/right_dpdk", ""),
}


@pytest.fixture
def stuck(networks: Kube, nodes: list[Remote]) -> Kube:
    """The six pods, and one that has the only address of a network, on the first node."""
    node = nodes[0].name
    switched = {"type": "wirespeed-vhost", "host": {"engine": "ovs-dpdk", "iftype": "vhostuser"}}
    networks.apply(
        bridge("full", "10.63.0.0/30"),
        nad("switched", switched),
        nad("wrong", {**switched, "host": {"engin": "ovs-dpdk"}}),
        nad("misspelt", {"type": "macvlam"}),
        pod("first", ["full"], node=node),
    )
    networks.pods_ready("first")
    wanted = {
        "no-network": ["missing"],
        "wrong-key": ["wrong"],
        "no-plugin": ["misspelt"],
        "no-address": ["full"],
        "no-switch": ["switched"],
    }
    networks.apply(
        *(pod(name, [*each], node=node) for name, each in wanted.items()),
        pod("no-device", ["one"], node=node, resources={"intel.com/right_dpdk": 1}),
    )
    return networks


@pytest.fixture
def agent(administrator: Kube, nodes: list[Remote]) -> str:
    """The name of the first node's agent's pod."""
    (found,) = (each for each in release.agents(administrator) if each["spec"]["nodeName"] == nodes[0].name)
    return str(found["metadata"]["name"])


@pytest.fixture
def transcript() -> Iterator[list[str]]:
    """The lines of commands and output that a user sees."""
    lines: list[str] = []
    yield lines
    if path := os.environ.get("WIRESPEED_TRANSCRIPT"):
        Path(path).write_text("\n".join(lines) + "\n")


def test_each_stuck_pods_reason_is_found_by_one_command(
    stuck: Kube, administrator: Kube, agent: str, transcript: list[str]
) -> None:
    system = administrator.inside(release.NAMESPACE)

    def told(*command: str) -> str:
        return system.run("exec", agent, "--container=agent", "--", "wirespeed", *command, check=False)

    def answered(name: str) -> Any:
        text = told("why", f"{stuck.namespace}/{name}", "--json")
        found: Object = json.loads(text) if text.startswith("{") else {}
        return re.search(STUCK[name][0], str(found.get("answer")))

    for name in STUCK:
        stuck.until(f"the reason of {name} is known", lambda name=name: answered(name))  # type: ignore[misc]
    transcript += ["$ kubectl get pods", *stuck.run("get", "pods").splitlines(), ""]
    began = time.monotonic()
    for name, (_, error) in STUCK.items():
        text = told("why", f"{stuck.namespace}/{name}")
        assert error in text
        first = list(takewhile(bool, text.splitlines()))  # the answer
        assert any(line.startswith("  do:  ") for line in first)
        transcript += [f"$ kubectl exec -n {release.NAMESPACE} {agent} -- wirespeed why {stuck.namespace}/{name}"]
        transcript += [*first, "..." if len(first) < len(text.splitlines()) else "", ""]
    transcript += [f"# six answers in {time.monotonic() - began:.0f} s"]
    assert re.search(rf"ADD {stuck.namespace}/no-address( \(\d+ times\))?: ", told("status"))
