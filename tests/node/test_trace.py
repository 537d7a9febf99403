"""The steps of calls that an agent serves: which there are, what they are part of, and where an error is."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.fakesysfs import FakeSysfs
from tests.node.calling import DONE
from tests.node.pods import World
from tests.node.tracing import adds_up, last_call, tree
from wirespeed.agent import hotplug
from wirespeed.node import Node, load_config

BEFORE = [
    "wait for other calls",
    "read the request",
    "read the configuration",
    "read the pod",
    "resolve the networks",
    "check the networks",
    "write the plan",
]
AFTER = ["write network-status", "send events", "send the answer"]
# What the vhost-user plugin does for a link between two pods, which needs no switch.
VHOST_ADD = [
    "read the configuration",
    "read the pod",
    "choose the socket",
    "claim the port",
    "allocate addresses",
    "prepare the folder",
    "create the port",
    "publish the port",
    "record the attachment",
]


def define_link(world: World, subnet: str = "10.9.0.0/24") -> None:
    """Define the network default/link: memif between pods, with its sockets in a shared folder."""
    (world.folder / "shared").mkdir()
    host = {"engine": "none", "iftype": "memif"}
    conf = {"type": "wirespeed-vhost", "host": host, "sharedDir": str(world.folder / "shared")}
    world.define("link", {"cniVersion": "1.0.0", **conf, "ipam": world.ipam(subnet)})


def test_add_and_del_of_a_bridge_and_a_vhost_user_network(world: World) -> None:
    define_link(world)
    pod = world.pod("p", "link")
    world.add(pod)
    added = last_call(world, "ADD")
    assert tree(added.steps) == [
        *BEFORE,
        ("attach", ["plugin bridge"]),
        ("attach", [("plugin wirespeed-vhost", VHOST_ADD)]),
        *AFTER,
    ]
    assert [each.about for each in added.steps if each.name == "attach"] == [
        {"network": "pods", "ifname": "eth0"},
        {"network": "default/link", "ifname": "net1"},
    ]
    assert adds_up(added)
    assert world.call("DEL", pod) == DONE
    deleted = last_call(world, "DEL")
    assert tree(deleted.steps) == [
        "wait for other calls",
        "read the request",
        "find the attachments",
        (
            "detach",
            [
                "find the network namespace",
                ("plugin wirespeed-vhost", ["find the port", "remove the port", "release addresses"]),
            ],
        ),
        ("detach", ["find the network namespace", "plugin bridge"]),
        "send the answer",
    ]
    assert adds_up(deleted)


def test_failed_add_has_its_error_in_the_step_that_failed_and_then_the_steps_of_the_undo(world: World) -> None:
    define_link(world)
    world.script("bad")
    world.fail("bad", "ADD", {"code": 117, "msg": "no luck"})
    world.define("bad", {"cniVersion": "1.0.0", "type": "bad"})
    _, message = world.refused("ADD", world.pod("p", "link,bad"))
    call = last_call(world, "ADD", failed=True)
    assert tree(call.steps) == [
        *BEFORE,
        ("attach", ["plugin bridge"]),
        ("attach", [("plugin wirespeed-vhost", VHOST_ADD)]),
        ("attach", ["plugin bad", ("undo", ["plugin bad"])]),
        (
            "undo",
            [
                "detach",
                (
                    "detach",
                    [
                        "find the network namespace",
                        ("plugin wirespeed-vhost", ["find the port", "remove the port", "release addresses"]),
                    ],
                ),
                ("detach", ["find the network namespace", "plugin bridge"]),
            ],
        ),
        "send the answer",
    ]
    assert call.error == message
    assert [each.name for each in call.steps if each.error] == ["attach", "plugin bad"]
    assert [title.split(" network")[0] for title in call.failed_path] == ["attach", "plugin bad"]
    assert adds_up(call)


def test_add_of_a_vf_has_twenty_steps(world: World, tmp_path: Path) -> None:
    """The VF's driver and sysfs are made up; its interface is one end of a veth."""
    sysfs = FakeSysfs(tmp_path / "sys")
    (address,) = sysfs.pf("0000:18:00.0", "pf0", vfs=1)
    world.node.run("ip", "link", "add", "pf0", "type", "bridge")
    world.node.run("ip", "link", "add", "pf0v0", "type", "veth", "peer", "name", "wire0")
    assert world.agent.stop() == 0
    world.restart(sysfs=str(sysfs.root))
    conf = {"cniVersion": "1.0.0", "name": "vfs", "type": "wirespeed-sriov", "deviceID": address}
    world.add(world.pod("p"), {**world.config, "delegates": [{**conf, "ipam": world.ipam("10.9.0.0/24")}]})
    call = last_call(world, "ADD")
    plugin = [
        "read the configuration",
        "claim the device",
        "allocate addresses",
        "set up the device",
        "move the interface into the pod",
        "configure the interface",
        "record the attachment",
        "announce the addresses",
    ]
    assert tree(call.steps) == [*BEFORE, ("attach", [("plugin wirespeed-sriov", plugin)]), *AFTER]
    assert len(call.steps) == 20
    assert adds_up(call)


def test_add_that_a_plugin_of_the_agent_undoes_has_the_undo_inside_its_step(world: World) -> None:
    define_link(world, subnet="10.9.0.0/30")  # it has one address for pods
    world.add(world.pod("first", "link"))
    assert last_call(world, "ADD").code == 0
    world.refused("ADD", world.pod("second", "link"))
    call = last_call(world, "ADD", failed=True)
    undo = ("undo", ["remove the port", "release addresses"])
    attached = [each for each in tree(call.steps) if each[0] == "attach"][1]
    plugin = ("plugin wirespeed-vhost", [*VHOST_ADD[:5], undo])
    again = ("undo", [("plugin wirespeed-vhost", ["find the port", "release addresses"])])
    assert attached == ("attach", [plugin, again])
    assert call.failed_path[-1] == "allocate addresses ipam=host-local"
    assert adds_up(call)


def test_steps_of_networks_that_are_attached_and_detached_later(world: World) -> None:
    define_link(world)
    world.add(world.pod("p"))
    change_network(world, "ATTACH", "link")
    attached = last_call(world, "ATTACH")
    assert tree(attached.steps) == [
        "wait for other calls",
        "find the attachments",
        "read the pod",
        "resolve the network",
        "check the network",
        "write the plan",
        ("attach", [("plugin wirespeed-vhost", VHOST_ADD)]),
        "write network-status",
        "send events",
        "send the answer",
    ]
    assert attached.pod == "default/p"
    assert adds_up(attached)
    change_network(world, "DETACH", "link")
    detached = last_call(world, "DETACH")
    assert [each if isinstance(each, str) else each[0] for each in tree(detached.steps)] == [
        "wait for other calls",
        "find the attachments",
        "read the pod",
        "write network-status",
        "detach",
        "send events",
        "send the answer",
    ]
    assert adds_up(detached)


def change_network(world: World, verb: str, network: str) -> None:
    with closing(Node(load_config(world.agent.config))) as node:
        hotplug.change_network(node, verb, "p", network)
