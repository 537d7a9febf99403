"""The VF inside its pod: changes by the pod are undone, addresses and routes work, neighbours are updated."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import xdp
from tests.lab.conftest import LabVfs, Runtime, conf, in_namespace, link_in

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
OTHER_MAC = "02:00:00:00:00:bb"
PATIENCE = 30
Namespaces = Callable[[], str]


@pytest.mark.parametrize("netns_first", [False, True])
def test_what_a_pod_changes_of_its_vf_is_undone(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, netns_first: bool
) -> None:
    netns = namespaces()
    assert agent.add("changes", conf(vfs.kernel[0], trust="on"), netns).code == 0
    for change in (
        ("address", OTHER_MAC),
        ("mtu", "1280"),
        ("txqueuelen", "77"),
        ("alias", "the pod was here"),
        ("promisc", "on"),
        ("allmulticast", "on"),
        ("arp", "off"),
        ("multicast", "off"),
    ):
        in_namespace(netns, "ip", "link", "set", "net1", *change)
    in_namespace(netns, "ip", "link", "property", "add", "dev", "net1", "altname", "a-name-that-the-pod-gave")
    xdp.attach(netns, "net1")
    changed = link_in(netns, "net1")
    assert changed is not None
    assert (changed["address"], changed["promiscuity"], "xdp" in changed) == (OTHER_MAC, 1, True)
    in_namespace(netns, "ip", "link", "set", "net1", "name", "renamed")
    if netns_first:
        subprocess.run(["ip", "netns", "del", Path(netns).name], check=True)
    assert agent.delete("changes", conf(vfs.kernel[0]), netns).code == 0


def dual_stack(third: int) -> dict[str, object]:
    return {
        "type": "host-local",
        "ranges": [[{"subnet": f"10.8.{third}.0/24"}], [{"subnet": f"fd00:8:{third}::/64"}]],
        "routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "::/0"},
            {"dst": "192.168.7.0/24", "gw": f"10.8.{third}.77", "mtu": 1300},
            {"dst": "192.168.8.0/24", "table": 100, "priority": 7},
        ],
    }


def test_addresses_and_routes_of_two_families_work(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    pods = {f"dual{n}": (namespaces(), conf(vfs.kernel[n], vlan=50, ipam=dual_stack(3))) for n in (0, 1)}
    for container, (netns, asked) in pods.items():
        in_namespace(netns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")  # as runtimes do
        added = agent.add(container, asked, netns)
        assert added.code == 0, added.body
        asked["prevResult"] = added.body
        assert [ip["interface"] for ip in added.body["ips"]] == [0, 0]
        assert agent.call("CHECK", container, asked, netns=netns).body == {}
    (one, _), (_, two) = pods["dual0"], pods["dual1"]
    routes = {route["dst"]: route for route in json.loads(in_namespace(one, "ip", "-j", "route"))}
    assert routes["default"]["gateway"] == "10.8.3.1"
    assert (routes["192.168.7.0/24"]["gateway"], routes["192.168.7.0/24"]["metrics"]) == (
        "10.8.3.77",
        [{"mtu": 1300}],
    )
    table = json.loads(in_namespace(one, "ip", "-j", "route", "show", "table", "100"))
    assert (table[0]["dst"], table[0]["gateway"], table[0]["metric"]) == ("192.168.8.0/24", "10.8.3.1", 7)
    six = {route["dst"]: route for route in json.loads(in_namespace(one, "ip", "-6", "-j", "route"))}
    assert six["default"]["gateway"] == "fd00:8:3::1"
    for ip in two["prevResult"]["ips"]:
        in_namespace(one, "ping", "-c", "2", "-i", "0.2", "-w", str(PATIENCE), ip["address"].split("/")[0])
    for container, (netns, asked) in pods.items():
        assert agent.delete(container, asked, netns).code == 0


def test_an_address_that_cannot_be_set_undoes_the_add(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns = namespaces()
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.8.4.5/24"}],
        "routes": [{"dst": "1.0.0.0/8", "gw": "9.9.9.9"}],
    }
    refused = agent.add("unreachable", conf(vfs.kernel[0], mac=MAC, vlan=5, ipam=ipam), netns)
    assert refused.code == 1
    assert "route 1.0.0.0/8 via 9.9.9.9 on net1" in refused.body["msg"]
    assert link_in(netns, "net1") is None


def test_a_pod_that_takes_over_an_address_is_known_to_its_neighbour(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    def static(*addresses: str) -> dict[str, object]:
        return {"type": "static", "addresses": [{"address": address} for address in addresses]}

    neighbour, old, new = namespaces(), namespaces(), namespaces()
    moving = static("10.8.5.5/24", "fd00:8:5::5/64")
    confs = {
        "neighbour": (neighbour, conf(vfs.kernel[0], vlan=50, ipam=static("10.8.5.9/24", "fd00:8:5::9/64"))),
        "old": (old, conf(vfs.kernel[1], vlan=50, mac=MAC, ipam=moving)),
        "new": (new, conf(vfs.kernel[1], vlan=50, mac=OTHER_MAC, ipam=moving)),
    }
    for container in ("neighbour", "old"):
        assert agent.add(container, confs[container][1], confs[container][0]).code == 0
    for address in ("10.8.5.5", "fd00:8:5::5"):
        in_namespace(neighbour, "ping", "-c", "1", "-i", "0.2", "-w", str(PATIENCE), address)
    assert agent.delete("old", confs["old"][1], old).code == 0
    watching = subprocess.Popen(
        ["ip", "-n", Path(neighbour).name, "monitor", "neigh"], stdout=subprocess.PIPE, text=True
    )
    timer = threading.Timer(PATIENCE, watching.kill)
    timer.start()
    try:
        assert watching.stdout is not None
        # Once a change is reported, the monitor is listening.
        in_namespace(neighbour, "ip", "neigh", "add", "10.8.5.77", "lladdr", MAC, "dev", "net1")
        while "10.8.5.77" not in (line := watching.stdout.readline()):
            assert line, "the monitor has ended"
        assert agent.add("new", confs["new"][1], new).code == 0
        unlearnt = {"10.8.5.5", "fd00:8:5::5"}
        while unlearnt:
            line = watching.stdout.readline()
            assert line, f"the neighbour never learnt of {unlearnt}"
            if f"lladdr {OTHER_MAC}" in line:
                unlearnt.discard(line.split()[0])
    finally:
        timer.cancel()
        watching.kill()
        watching.communicate()
    for container in ("neighbour", "new"):
        assert agent.delete(container, confs[container][1], confs[container][0]).code == 0
