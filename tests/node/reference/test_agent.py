"""The agent does the work of reference plugins itself if its configuration says so, also in a mixed rollout."""

from __future__ import annotations

import pytest

from tests.node.calling import DONE
from tests.node.pods import Pod, World

WAYS = ("execute", "inProcess")


def begin(world: World, way: str) -> Pod:
    """Restart the agent with this key; attach a pod with three bridge networks."""
    world.agent.stop()
    world.restart(referencePlugins=way)
    world.define("second", world.conflist("second", world.bridge("10.7.0.0/24", "10.8.0.0/16 10.7.0.1")))
    pod = world.pod("p", "bridged,second")
    world.add(pod)
    assert set(pod.links()) == {"eth0", "net1", "net2"}
    return pod


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("then", WAYS)
def test_interfaces_are_checked_and_removed_by_either(world: World, first: str, then: str) -> None:
    pod = begin(world, first)
    world.agent.stop()
    world.restart(referencePlugins=then)
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)
    assert (world.veths(), world.rows()) == ([], {})


def test_no_program_is_started(world: World) -> None:
    """The scripts print the version of a known executable, and fail in every call."""
    for name in ("bridge", "host-local"):
        path = world.bin / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n[ -n "$CNI_COMMAND" ] && exit 1\necho "CNI {name} plugin v1.9.1" >&2\n')
        path.chmod(0o755)
    pod = begin(world, "inProcess")
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_wrong_key_is_named(world: World) -> None:
    world.agent.stop()
    world.restart(referencePlugins="inProcess")
    world.define("wrong", world.conflist("wrong", world.bridge("10.7.0.0/24", vlan=5000)))
    code, message = world.refused("ADD", world.pod("p", "wrong"))
    assert code == 7
    assert 'plugin bridge: key "vlan": expected an integer from 0 to 4094, got 5000' in message
    assert (world.leases(), world.rows()) == ({}, {})


def test_interface_that_is_gone_already_keeps_no_other(world: World) -> None:
    pod = begin(world, "inProcess")
    pod.netns.run("ip", "link", "del", "net1")
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_chain_of_several_plugins_is_removed_beside_others(world: World) -> None:
    world.define("tuned", world.conflist("tuned", world.bridge("10.9.0.0/24"), {"type": "tuning", "mtu": 1400}))
    world.agent.stop()
    world.restart(referencePlugins="inProcess")
    pod = world.pod("p", "bridged,tuned,ptp")
    world.add(pod)
    assert pod.links()["net2"]["mtu"] == 1400
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_network_namespace_that_is_gone_keeps_no_address(world: World) -> None:
    pod = begin(world, "inProcess")
    pod.netns.delete()
    assert world.call("DEL", pod) == DONE
    assert (world.leases(), world.rows()) == ({}, {})
