"""Packets between pods through Open vSwitch with DPDK, counted at both ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.node.calling import until
from tests.node.conftest import Netns
from tests.node.vhost.conftest import Host, Switch, Testpmd, network
from wirespeed.plugins.vhost.engine import port_name

BURSTS = 3  # of 32 packets: less than a ring holds, so none is lost
PACKETS = 32 * BURSTS

Start = Callable[..., Testpmd]
Pods = Callable[[], Netns]


def folder(result: dict[str, Any]) -> Path:
    return Path(result["interfaces"][0]["socketPath"]).parent


def wait_links(switch: Switch, host: Host, *ends: tuple[Netns, Testpmd]) -> None:
    """Wait until applications and switch are connected: the receiver must be connected before the sender sends."""
    for pod, application in ends:
        application.wait_link()
        name = port_name(host.request("ADD", {}, pod).container_id, "net1")
        until(lambda name=name: switch.get("Interface", name, "link_state") == "up", f"{name} up")  # type: ignore[misc]


def test_packets_go_from_pod_to_pod(switch: Switch, host: Host, netns: Pods, testpmd: Start) -> None:
    conf, pods = network(), [netns(), netns()]
    results = [host.add(conf, pod) for pod in pods]
    sender, receiver = (testpmd(pod, folder(result)) for pod, result in zip(pods, results, strict=True))
    wait_links(switch, host, *zip(pods, (sender, receiver), strict=True))
    receiver.command("set fwd rxonly")
    receiver.command("start")
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: receiver.packets()[0] == PACKETS, f"{PACKETS} packets received")
    assert sender.packets()[1] == PACKETS
    for application in (sender, receiver):
        application.quit()
    for pod in pods:
        host.check(conf, pod)
        host.delete(conf, pod)


def test_vlans_keep_pods_apart(switch: Switch, host: Host, netns: Pods, testpmd: Start) -> None:
    confs = [network("a", bridge={"vlanId": 10}), network("a", bridge={"vlanId": 10})]
    confs.append(network("b", bridge={"vlanId": 20}))
    pods = [netns() for _ in confs]
    results = [host.add(conf, pod) for conf, pod in zip(confs, pods, strict=True)]
    sender, same, other = (testpmd(pod, folder(result)) for pod, result in zip(pods, results, strict=True))
    wait_links(switch, host, *zip(pods, (sender, same, other), strict=True))
    for application in (same, other):
        application.command("set fwd rxonly")
        application.command("start")
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: same.packets()[0] == PACKETS, f"{PACKETS} packets received in the VLAN")
    assert other.packets()[0] == 0
    for application in (sender, same, other):
        application.quit()
    for conf, pod in zip(confs, pods, strict=True):
        host.delete(conf, pod)


def test_traffic_comes_back_after_the_switch_was_restarted(
    switch: Switch, host: Host, netns: Pods, testpmd: Start
) -> None:
    conf, pods = network(), [netns(), netns()]
    results = [host.add(conf, pod) for pod in pods]
    sender, receiver = (testpmd(pod, folder(result)) for pod, result in zip(pods, results, strict=True))
    receiver.command("set fwd rxonly")
    receiver.command("start")
    sender.command("set fwd txonly")
    sender.wait_link()
    sender.command("start")
    until(lambda: receiver.packets()[0] > 0, "a packet received")
    switch.stop()
    until(lambda: "Link status: down" in receiver.command("show port info 0"), "without a link")
    before = receiver.packets()[0]
    switch.start()
    until(lambda: receiver.packets()[0] > before, "a packet received after the restart")
    for application in (sender, receiver):
        application.command("stop")
        application.quit()
    for pod in pods:
        host.check(conf, pod)
        host.delete(conf, pod)


def test_an_application_that_is_started_anew_is_connected_again(
    switch: Switch, host: Host, netns: Pods, testpmd: Start
) -> None:
    conf, pods = network(), [netns(), netns()]
    results = [host.add(conf, pod) for pod in pods]
    sender, receiver = (testpmd(pod, folder(result)) for pod, result in zip(pods, results, strict=True))
    receiver.wait_link()
    receiver.kill()
    again = testpmd(pods[1], folder(results[1]))
    wait_links(switch, host, *zip(pods, (sender, again), strict=True))
    again.command("set fwd rxonly")
    again.command("start")
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: again.packets()[0] == PACKETS, f"{PACKETS} packets received")
    for application in (sender, again):
        application.quit()
    for pod in pods:
        host.delete(conf, pod)
