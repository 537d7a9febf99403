"""A scalable function on the auxiliary bus, made by the lab's own driver, moved into pods as a VF is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import PFS, Runtime, conf, host_local, in_namespace, link_in, serving, sh
from tests.lab.test_crash import count_instants, forked_agent, left_behind
from wirespeed.cni.errors import Code

pytestmark = pytest.mark.usefixtures("unchanged", "ready_to_fork")

NAME, MAC = "wirespeed_sf.sf.4", "02:00:00:00:00:aa"
Namespaces = Callable[[], str]


@dataclass(frozen=True)
class Function:
    """The scalable function, in its initial state."""

    interface: str
    before: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """What `ip -d -j link` shows for its interface on the host."""
        (shown,) = json.loads(sh("ip", "-d", "-j", "link", "show", self.interface))
        assert shown["parentdev"] == NAME
        return {key: value for key, value in shown.items() if key not in {"ifindex", "operstate"}}


@pytest.fixture
def function() -> Iterator[Function]:
    sh("modprobe", "wirespeed_sf", f"pf={Path(f'/sys/class/net/{PFS[0]}/device').resolve().name}")
    try:
        (interface,) = (path.name for path in Path(f"/sys/bus/auxiliary/devices/{NAME}/net").iterdir())
        sh("ip", "link", "set", interface, "mtu", "1450")
        yield Function(interface, Function(interface, {}).state())
    finally:
        sh("rmmod", "wirespeed_sf")


@pytest.fixture
def agent(runtime: Runtime) -> Iterator[Runtime]:
    """An agent for one test. Tests that kill their own agent must not use it."""
    with serving(runtime):
        yield runtime


def wanted(runtime: Runtime) -> dict[str, Any]:
    """A configuration that changes everything that can be changed."""
    info = {"CNIDeviceInfoFile": str(runtime.folder / "devinfo/cni/default-data-crash_net1")}
    return conf(NAME, mac=MAC, mtu=1400, txQueueLen=500, promisc="on", ipam=host_local(), runtimeConfig=info)


def test_a_scalable_function_goes_into_its_pod_and_comes_back(
    agent: Runtime, namespaces: Namespaces, function: Function
) -> None:
    netns, asked = namespaces(), wanted(agent)
    added = agent.add("function", asked, netns)
    assert added.code == 0, added.body
    assert added.body["interfaces"] == [{"name": "net1", "sandbox": netns, "mac": MAC, "mtu": 1400}]
    link = link_in(netns, "net1")
    assert link is not None
    assert (link["parentdev"], link["parentbus"], link["mtu"], link["txqlen"]) == (NAME, "auxiliary", 1400, 500)
    assert {"UP", "PROMISC"} <= set(link["flags"])
    assert left_behind(agent) != []  # the lease; device-info files are only written for PCI devices
    assert not Path(asked["runtimeConfig"]["CNIDeviceInfoFile"]).exists()
    prevresult = asked | {"prevResult": added.body}
    assert agent.call("CHECK", "function", prevresult, netns=netns).code == 0
    in_namespace(netns, "ip", "link", "set", "net1", "promisc", "off")
    drifted = agent.call("CHECK", "function", prevresult, netns=netns)
    assert (drifted.body["code"], "promisc of net1 is False" in drifted.body["msg"]) == (Code.DRIFT, True)
    taken = agent.add("other", conf(NAME), namespaces())
    assert f"{NAME} belongs to container function net1" in taken.body["msg"]
    for _ in range(2):
        assert agent.delete("function", asked, netns).code == 0
        assert function.state() == function.before


def test_a_scalable_function_whose_pod_is_gone_is_waited_for(
    agent: Runtime, namespaces: Namespaces, function: Function
) -> None:
    netns = namespaces()
    assert agent.add("gone", wanted(agent), netns).code == 0
    sh("ip", "netns", "del", Path(netns).name)
    assert agent.delete("gone", wanted(agent), netns).code == 0
    assert function.state() == function.before


def test_a_late_del_leaves_the_new_owners_function_alone(
    agent: Runtime, namespaces: Namespaces, function: Function
) -> None:
    old, new = namespaces(), namespaces()
    assert agent.add("old", conf(NAME), old).code == 0
    sh("ip", "netns", "del", Path(old).name)
    assert agent.add("new", conf(NAME, mtu=1400), new).code == 0
    assert agent.delete("old", conf(NAME), old).code == 0
    link = link_in(new, "net1")
    assert link is not None
    assert link["mtu"] == 1400
    assert agent.call("GC", "", conf(NAME) | {"cni.dev/valid-attachments": []}).code == 0
    assert function.state() == function.before


def test_what_only_a_vf_has_is_refused(agent: Runtime, namespaces: Namespaces, function: Function) -> None:
    refused = agent.add("refused", conf(NAME, vlan=5), namespaces())
    assert 'key "vlan": it has no effect on a scalable function' in refused.body["msg"]
    queues = agent.add("refused", conf(NAME, queues=2), namespaces())
    assert f"scalable function {NAME} (scalable function 88 of PF " in queues.body["msg"]
    assert 'key "queues": its driver cannot change the number' in queues.body["msg"]
    assert function.state() == function.before


@pytest.mark.usefixtures("function")
def test_a_scalable_function_that_is_removed_keeps_no_pod(agent: Runtime, namespaces: Namespaces) -> None:
    netns = namespaces()
    assert agent.add("removed", wanted(agent), netns).code == 0
    Path("/sys/bus/auxiliary/drivers/wirespeed_sf.sf/unbind").write_text(NAME)
    assert link_in(netns, "net1") is None
    assert agent.delete("removed", wanted(agent), netns).code == 0
    assert left_behind(agent) == []


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_killed_at_every_instant_then_del(
    runtime: Runtime, namespaces: Namespaces, function: Function, verb: str
) -> None:
    number, instants = 0, 1
    while number < instants:
        number += 1
        netns = namespaces()
        with forked_agent(runtime, verb=verb, die_at=number) as told:
            answer = runtime.add("crash", wanted(runtime), netns)
            if verb == "DEL":
                assert answer.code == 0, answer.body
                answer = runtime.delete("crash", wanted(runtime), netns)
            instants = number + 1 if answer.code else count_instants(told)
        with forked_agent(runtime):
            deleted = runtime.delete("crash", wanted(runtime), netns)
        assert deleted.code == 0, f"instant {number}: {deleted.body}"
        assert (function.state(), left_behind(runtime)) == (function.before, []), f"instant {number}"
    assert instants > (11 if verb == "ADD" else 8)
