"""`wirespeed topology` and `wirespeed top` with Open vSwitch: ports, their pods, and the rates of real traffic."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.calling import until
from tests.node.conftest import Netns
from tests.node.vhost.conftest import Host, Switch, Testpmd, network
from tests.node.vhost.test_vhost_traffic import BURSTS, PACKETS, folder, wait_links
from wirespeed.observe import rates
from wirespeed.observe.topology import topology
from wirespeed.plugins.vhost.engine import port_name
from wirespeed.switches import appctl
from wirespeed.switches.switch import SwitchDownError

Pods = Callable[[], Netns]


def test_ports_have_their_bridge_settings_and_pods(switch: Switch, host: Host, netns: Pods) -> None:
    conf = network(bridge={"bridgeName": "br0", "vlanId": 7, "trunk": [9, 8]})
    pod = netns()
    host.add(conf, pod)
    switch.vsctl("add-port", "br0", "uplink", "--", "set", "Interface", "uplink", "type=dummy-internal")
    (bridge,) = topology(host.node).switches
    (port,) = bridge.ports
    container = host.request("ADD", conf, pod).container_id
    assert (bridge.kind, bridge.bridge, bridge.datapath, bridge.others) == (
        "ovs-dpdk",
        "br0",
        "netdev",
        ("uplink",),
    )
    assert (port.name, port.role, port.vlan, port.trunk) == (port_name(container, "net1"), "server", 7, (8, 9))
    assert (port.state, port.socket) == ("down", str(host.folder / "sockets" / container[:12] / port.name))
    assert port.pod is not None
    assert (port.pod.container, port.pod.ifname, port.pod.network) == (container, "net1", "net")
    switch.vsctl("del-port", "uplink")
    switch.vsctl("del-port", port.name)
    (bridge,) = topology(host.node).switches  # now only in the journal
    assert [(each.name, each.state, each.pod) for each in bridge.ports] == [(port.name, "missing", port.pod)]
    host.delete(conf, pod)
    assert topology(host.node).switches == ()


def test_a_port_that_the_switch_lost_is_missing(switch: Switch, host: Host, netns: Pods) -> None:
    pods = [netns(), netns()]
    for pod in pods:
        host.add(network(), pod)
    lost = port_name(host.request("ADD", {}, pods[0]).container_id, "net1")
    switch.vsctl("del-port", lost)
    (bridge,) = topology(host.node).switches
    states = {port.name: port.state for port in bridge.ports}
    assert states.pop(lost) == "missing"
    assert [*states.values()] == ["down"]
    for pod in pods:
        host.delete(network(), pod)


def test_rates_are_those_of_the_traffic_as_the_pods_see_it(
    switch: Switch, host: Host, netns: Pods, testpmd: Callable[..., Testpmd]
) -> None:
    pods = [netns(), netns()]
    results = [host.add(network(), pod) for pod in pods]
    sender, receiver = (testpmd(pod, folder(result)) for pod, result in zip(pods, results, strict=True))
    wait_links(switch, host, *zip(pods, (sender, receiver), strict=True))
    receiver.command("set fwd rxonly")
    receiver.command("start")
    before = rates.sample(host.node)
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: receiver.packets()[0] == PACKETS, f"{PACKETS} packets received")
    now = rates.sample(host.node)
    shown = rates.between(before, now)
    assert shown.faults == ()
    of_container = {port.pod.container: port for port in shown.ports if port.pod}
    sent, received = (of_container[host.request("ADD", {}, pod).container_id] for pod in pods)
    key = (sent.kind, sent.name)
    seconds = now.readings[key].at - before.readings[key].at
    assert sent.rates.tx_packets == pytest.approx(PACKETS / seconds)
    assert sent.rates.tx_bits == pytest.approx(PACKETS * 64 * 8 / seconds)
    assert (sent.rates.tx_drops, sent.rates.rx_packets, sent.rates.rx_bits) == (0, 0, 0)
    assert received.rates.rx_packets == pytest.approx(PACKETS / seconds)
    assert (received.rates.rx_drops, received.rates.tx_packets) == (0, 0)
    for application in (sender, receiver):
        application.quit()
    for pod in pods:
        host.delete(network(), pod)


def test_a_switch_that_does_not_run_has_no_counters(tmp_path: Path) -> None:
    with pytest.raises(SwitchDownError) as refused:
        appctl.port_counters(tmp_path, deadline=time.monotonic() + 5)
    assert refused.value.msg == f"{tmp_path}/ovs-vswitchd.pid: No such file or directory"
    (tmp_path / "ovs-vswitchd.pid").write_text("4711\n")
    with pytest.raises(SwitchDownError) as refused:
        appctl.port_counters(tmp_path, deadline=time.monotonic() + 5)
    assert refused.value.msg == f"ovs-vswitchd at unix:{tmp_path}/ovs-vswitchd.4711.ctl: No such file or directory"
