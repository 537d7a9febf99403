"""A full node: a hundred pods are attached, checked and detached at once, with executed plugins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.node.calling import Answer, open_files, until
from tests.node.pods import Pod, World

PODS = 100
NETWORKS = ("bridged", "ptp", "third")  # in addition to the master's
SECONDS = 60.0  # for everything, on two cores
GROWTH = 24 << 20  # bytes that the agent may grow when its 32 threads run for the first time
LEAK = 4 << 20  # bytes that it may grow when everything is repeated


def rss(world: World) -> int:
    """The agent's resident memory in bytes."""
    pages = Path(f"/proc/{world.agent.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def threads(world: World) -> int:
    return len(os.listdir(f"/proc/{world.agent.process.pid}/task"))


def descriptors(world: World) -> list[str]:
    """The kinds of the agent's open files."""
    return sorted(what.split(":")[0] for _, what in open_files(world.agent.process.pid))


def at_once(pods: Iterable[Pod], call: Callable[[Pod], Answer]) -> list[Answer]:
    """Make a call for each pod, all at the same time. Return the answers."""
    with ThreadPoolExecutor(PODS) as runtime:
        return list(runtime.map(call, pods))


def failed(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status]


def come_and_go(world: World, pods: list[Pod]) -> None:
    """ADD, CHECK and DEL of all pods."""
    assert failed(at_once(pods, lambda pod: world.call("ADD", pod))) == []
    expected = {"eth0", "net1", "net2", "net3"}
    assert all(pod.addresses().keys() == expected for pod in pods)
    owners = {f"{pod.container} {ifname}" for pod in pods for ifname in expected}
    assert set(world.leases().values()) == owners
    assert len(world.leases()) == len(world.veths()) == len(owners)  # no address and no name is used twice
    assert list(world.rows().values()) == ["added"] * len(owners)
    assert all(len(world.status(pod) or []) == len(expected) for pod in pods)
    assert failed(at_once(pods, lambda pod: world.call("CHECK", pod))) == []
    assert failed(at_once(pods, lambda pod: world.call("DEL", pod))) == []
    assert [pod.name for pod in pods if pod.links()] == []
    assert (world.rows(), world.leases()) == ({}, {})


def test_a_hundred_pods_with_three_networks_come_and_go_and_leave_nothing(world: World) -> None:
    world.define("third", world.conflist("third", world.bridge("10.4.0.0/24")))
    # creates the bridges and everything else that is created only once
    come_and_go(world, [world.pod("first", ",".join(NETWORKS))])
    pods = [world.pod(f"p{number}", ",".join(NETWORKS)) for number in range(PODS)]
    links, files, running, before = world.node.links().keys(), descriptors(world), threads(world), rss(world)

    began = time.monotonic()
    come_and_go(world, pods)
    assert time.monotonic() - began < SECONDS

    assert world.node.links().keys() == links
    until(lambda: descriptors(world) == files, "with the descriptors of before")
    workers, once = threads(world), rss(world)
    assert workers <= running + 32
    assert once - before < GROWTH
    come_and_go(world, pods)
    assert threads(world) <= max(workers, running + 32)
    assert rss(world) - once < LEAK
