"""Addresses and routes in addition to the cluster network's, compared with the reference plugins.

One end of a veth pair acts as a VF's interface. The reference plugin host-device is executed with the same IPAM in
an identical namespace, and the resulting kernel state is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from tests.node.conftest import Netns
from tests.node.sandboxes import settle
from wirespeed.cni import result as results
from wirespeed.cni.execute import run_plugin
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam, addressing
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.routes import by_interface

REFERENCE = Path("/usr/lib/cni")
VERSION = "1.0.0"
MAC = "02:00:00:00:57:07"
Namespaces = Callable[[], Netns]
Config = dict[str, Any]


@dataclass
class Host:
    """A node in a network namespace, with the VFs' interfaces eth4v0 and eth4v1."""

    net: Netns

    def __post_init__(self) -> None:
        for number in (0, 1):
            add_device(self.net, f"eth4v{number}", f"{MAC[:-1]}{number}")

    def add(self, pod: Netns, ipam: Config, *, number: int = 0, ifname: str = "net1") -> Result:
        """Do what ADD does with a VF's interface and addresses. On failure, move it back and raise Error."""
        given = Ipam(Path("/nonexistent")).add(request(ipam, pod, "sriov", ifname))
        with namespaces.opened(pod.path) as ns, namespaces.opened(self.net.path) as home:
            with Rtnl(netns_fd=home.fd) as host:
                link = host.link(f"eth4v{number}")
                assert link is not None
                host.set_link(link.index, netns_fd=ns.fd, name=ifname, up=True)
            with Rtnl(netns_fd=ns.fd) as inside:
                moved = inside.link(ifname)
                assert moved is not None
                try:
                    addressing.configure(inside, ns, moved.index, ifname, given)
                except Error:
                    self.delete(pod, number=number, ifname=ifname)
                    raise
        interface = {"name": ifname, "sandbox": pod.path}
        ips = [{**ip, "interface": 0} for ip in given["ips"]]
        return results.read(results.write({**given, "interfaces": [interface], "ips": ips}, "1.1.0"))

    def delete(self, pod: Netns, *, number: int = 0, ifname: str = "net1") -> None:
        """Do what DEL does with the interface."""
        pod.run("ip", "link", "set", ifname, "down", "name", f"eth4v{number}", "netns", self.net.name)


def missing(pod: Netns, added: Result, ifname: str = "net1") -> list[str]:
    """What CHECK reports about the interface's addresses and routes."""
    with namespaces.opened(pod.path) as ns, Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
        assert link is not None
        return addressing.missing(inside, link, added, 0)


def request(ipam: Config, pod: Netns, kind: str, ifname: str = "net1", **more: Any) -> Request:
    return Request(
        command="ADD",
        container_id="c1",
        netns=pod.path,
        ifname=ifname,
        config={"cniVersion": VERSION, "name": "net", "type": kind, "ipam": ipam} | more,
        path=(str(REFERENCE),),
    )


@pytest.fixture
def host(netns: Namespaces) -> Host:
    return Host(netns())


def add_device(net: Netns, name: str, mac: str) -> None:
    wire = f"wire{name[-1]}"
    net.run("ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", wire)
    net.run("ip", "link", "set", wire, "up")


def static(*addresses: str | tuple[str, str], routes: list[Config] | None = None) -> Config:
    pairs = [(each, "") if isinstance(each, str) else each for each in addresses]
    return {
        "type": "static",
        "addresses": [{"address": address} | ({"gateway": via} if via else {}) for address, via in pairs],
        "routes": routes or [],
    }


def shown(pod: Netns, *arguments: str) -> list[Config]:
    found: list[Config] = json.loads(pod.run("ip", "-j", *arguments))
    return found


def routes(pod: Netns) -> list[Config]:
    """All routes of the kernel, without `protocol`, and without `scope` if there is no gateway."""
    found = [shown(pod, family, "route", "show", "table", "all") for family in ("-4", "-6")]
    left_out = {"protocol", "scope", "flags"}
    return [
        {
            key: value
            for key, value in route.items()
            if key not in left_out or (key == "scope" and "gateway" in route)
        }
        for family in found
        for route in family
    ]


def addresses(pod: Netns) -> list[Config]:
    """The addresses of net1, without the attributes of link-local addresses that vary."""
    keys = ("family", "local", "prefixlen", "broadcast", "scope")
    listed = shown(pod, "addr", "show", "dev", "net1")[0]["addr_info"]
    found = [{key: address[key] for key in keys if key in address} for address in listed]
    return sorted(found, key=lambda address: str(address["local"]))


def defaults(pod: Netns, family: str) -> list[tuple[str, str]]:
    """(gateway, interface) for each next hop of the default routes in the main table."""
    found = []
    for route in shown(pod, family, "route", "show", "default"):
        found += [(hop["gateway"], hop["dev"]) for hop in route.get("nexthops", [route])]
    return found


def by_reference(net: Netns, pod: Netns, ipam: Config) -> None:
    """ADD of host-device. Raises Error if it fails."""
    with namespaces.opened(net.path) as ns:
        call = request(ipam, pod, "host-device", device="eth4v0")
        namespaces.inside(ns.fd, lambda: run_plugin(str(REFERENCE / "host-device"), call))


# Routes that the pod already has

FOUR, SIX = ("10.57.0.7/24", "10.57.0.1"), ("fd00:57::7/64", "fd00:57::1")


@pytest.mark.parametrize(
    "ipam",
    [
        pytest.param(static(FOUR, routes=[{"dst": "0.0.0.0/0"}]), id="IPv4's default route"),
        pytest.param(static(SIX, routes=[{"dst": "::/0"}]), id="IPv6's default route"),
        pytest.param(static(FOUR, SIX, routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]), id="both default routes"),
        pytest.param(static(FOUR, routes=[{"dst": "10.57.0.0/24"}]), id="the network's own subnet"),
        pytest.param(static(SIX, routes=[{"dst": "fd00:57::/64"}]), id="the network's own IPv6 subnet"),
        pytest.param(static(FOUR, routes=[{"dst": "10.96.0.0/12"}]), id="a static route of the cluster"),
        pytest.param(static(SIX, routes=[{"dst": "fd00:96::/32"}]), id="a static IPv6 route of the cluster"),
        pytest.param(static("10.56.0.7/16"), id="the cluster's own subnet"),
        pytest.param(static("10.56.0.5/16", "fd00:56::5/64"), id="an address that eth0 has"),
        pytest.param(static(FOUR, routes=[{"dst": "10.57.0.0/24", "gw": "10.57.0.9"}] * 2), id="a route twice"),
        pytest.param(static(SIX, routes=[{"dst": "fd01::/64", "gw": "fd00:57::9"}] * 2), id="an IPv6 route twice"),
        pytest.param(static(FOUR, FOUR, SIX, SIX), id="an address twice"),
    ],
)
def test_what_the_pod_has_already_stands_beside_the_networks(host: Host, sandbox: Namespaces, ipam: Config) -> None:
    pod = sandbox()
    before = routes(pod)
    added = host.add(pod, ipam)
    for route in before:
        hops = [hop for each in routes(pod) for hop in each.get("nexthops", [each])]
        assert any((hop.get("dev"), hop.get("gateway")) == (route["dev"], route.get("gateway")) for hop in hops)
    assert missing(pod, added) == []
    host.delete(pod)
    assert routes(pod) == before


def test_the_networks_default_route_is_used_first_and_ipv6_uses_both(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    host.add(pod, static(FOUR, SIX, routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]))
    assert defaults(pod, "-4") == [("10.57.0.1", "net1"), ("10.56.0.1", "eth0")]
    assert sorted(defaults(pod, "-6")) == [("fd00:56::1", "eth0"), ("fd00:57::1", "net1")]
    host.delete(pod)
    assert (defaults(pod, "-4"), defaults(pod, "-6")) == ([("10.56.0.1", "eth0")], [("fd00:56::1", "eth0")])


def test_two_redundant_networks_have_the_same_routes(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    before = routes(pod)
    same = [{"dst": "192.168.7.0/24"}, {"dst": "::/0"}, {"dst": "0.0.0.0/0"}]
    added = [
        host.add(
            pod,
            static(
                (f"10.57.{number}.7/24", f"10.57.{number}.1"),
                (f"fd00:57:{number}::7/64", f"fd00:57:{number}::1"),
                routes=same,
            ),
            number=number,
            ifname=f"net{number}",
        )
        for number in (0, 1)
    ]
    assert [missing(pod, added[number], f"net{number}") for number in (0, 1)] == [[], []]
    pod.run("ip", "route", "del", "192.168.7.0/24", "dev", "net0")
    assert missing(pod, added[0], "net0") == ["route 192.168.7.0/24 via 10.57.0.1 is missing on net0"]
    pod.run("ip", "-6", "route", "del", "default", "via", "fd00:57:1::1", "dev", "net1")
    assert missing(pod, added[1], "net1") == ["route ::/0 via fd00:57:1::1 is missing on net1"]
    for number in (0, 1):
        host.delete(pod, number=number, ifname=f"net{number}")
    assert routes(pod) == before


def test_a_failed_add_leaves_the_pods_routes(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    before = routes(pod)
    outside = static(
        FOUR, SIX, routes=[{"dst": "::/0"}, {"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.8.0.1"}]
    )
    with pytest.raises(Error) as refused:
        host.add(pod, outside)
    assert refused.value.kind == Kind.ADDRESS
    assert refused.value.msg == (
        "route 10.9.0.0/16 via 10.8.0.1 on net1: Network is unreachable (Nexthop has invalid gateway); "
        "expected a gateway in a network of the interface (10.57.0.0/24, fd00:57::/64)"
    )
    assert routes(pod) == before


# Routes that were moved to other tables, or are listed with several next hops

EVERYWHERE = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.7.0/24", "gw": "10.57.0.9"}]


def test_routes_that_sbr_moves_are_found_where_its_rules_lead(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    ipam = static(FOUR, SIX, routes=EVERYWHERE)
    added = host.add(pod, ipam)
    previous = results.write(added, VERSION)
    run_plugin(str(REFERENCE / "sbr"), request(ipam, pod, "sbr", prevResult=previous))
    assert defaults(pod, "-4") == [("10.56.0.1", "eth0")]
    assert missing(pod, added) == []

    pod.run("ip", "route", "del", "default", "table", "100")
    assert missing(pod, added) == ["route 0.0.0.0/0 via 10.57.0.1 is missing on net1"]
    pod.run("ip", "route", "add", "default", "via", "10.57.0.1", "table", "100")
    assert missing(pod, added) == []
    pod.run("ip", "rule", "del", "from", "10.57.0.7", "table", "100")
    assert missing(pod, added) == [
        "route 0.0.0.0/0 via 10.57.0.1 is missing on net1",
        "route 192.168.7.0/24 via 10.57.0.9 is missing on net1",
    ]


@pytest.mark.parametrize("rule", ["from 10.9.9.9", "not from 10.57.0.7", "iif eth0", "from 10.57.0.7 blackhole"])
def test_a_table_by_which_nothing_of_the_interface_is_routed_does_not_count(
    host: Host, sandbox: Namespaces, rule: str
) -> None:
    pod = sandbox()
    added = host.add(pod, static(FOUR, routes=[{"dst": "0.0.0.0/0"}]))
    pod.run("ip", "route", "del", "default", "dev", "net1")
    pod.run("ip", "route", "add", "default", "via", "10.57.0.1", "table", "777")
    table = [] if rule.endswith("blackhole") else ["lookup", "777"]
    pod.run("ip", "rule", "add", *rule.split(), *table)
    assert missing(pod, added) == ["route 0.0.0.0/0 via 10.57.0.1 is missing on net1"]
    pod.run("ip", "rule", "add", "iif", "net1", "lookup", "777")
    assert missing(pod, added) == []


def test_a_route_that_was_asked_for_in_a_table_is_looked_for_there_alone(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    added = host.add(pod, static(FOUR, routes=[{"dst": "0.0.0.0/0", "table": 300}]))
    assert missing(pod, added) == []
    pod.run("ip", "rule", "add", "from", "10.57.0.7", "lookup", "301")
    pod.run("ip", "route", "del", "default", "table", "300")
    pod.run("ip", "route", "add", "default", "via", "10.57.0.1", "table", "301")
    assert missing(pod, added) == ["route 0.0.0.0/0 via 10.57.0.1 is missing on net1"]


@pytest.mark.parametrize("told", ["1", "0"])  # with 0, the kernel lists only the ID of the nexthop object
def test_routes_by_next_hop_objects_are_those_of_their_next_hops(
    host: Host, sandbox: Namespaces, told: str
) -> None:
    pod = sandbox()
    added = host.add(pod, static(FOUR, SIX, routes=EVERYWHERE))
    pod.run("sysctl", "-qw", f"net.ipv4.nexthop_compat_mode={told}")
    for number, (family, gateway) in enumerate(
        (("-4", "10.57.0.1"), ("-6", "fd00:57::1"), ("-4", "10.57.0.9"), ("-4", "10.57.0.8")), start=1
    ):
        pod.run("ip", family, "nexthop", "add", "id", str(number), "via", gateway, "dev", "net1")
    pod.run("ip", "nexthop", "add", "id", "10", "group", "4/3")
    for family, destination, number in (("-4", "default", 1), ("-6", "default", 2), ("-4", "192.168.7.0/24", 10)):
        pod.run("ip", family, "route", "del", destination, "dev", "net1")
        pod.run("ip", family, "route", "add", destination, "nhid", str(number), "metric", "50")
    assert missing(pod, added) == []
    pod.run("ip", "nexthop", "del", "id", "3")
    assert missing(pod, added) == ["route 192.168.7.0/24 via 10.57.0.9 is missing on net1"]


def test_an_ipv4_route_by_an_ipv6_gateway_is_read(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    added = host.add(pod, static(FOUR, SIX, routes=[{"dst": "192.168.7.0/24"}]))
    pod.run("ip", "route", "del", "192.168.7.0/24")
    pod.run("ip", "route", "add", "192.168.7.0/24", "via", "inet6", "fd00:57::1", "dev", "net1")
    assert missing(pod, added) == ["route 192.168.7.0/24 via 10.57.0.1 is missing on net1"]
    with namespaces.opened(pod.path) as ns, Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link("net1")
        assert link is not None
        found = {(str(route.destination), route.gateway) for route in by_interface(inside, link.index)}
    assert ("192.168.7.0/24", "fd00:57::1") in found


def test_an_interface_with_ipv6_has_it_on_lo_too(host: Host, sandbox: Namespaces) -> None:
    pod = sandbox()
    pod.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    host.add(pod, static(SIX))
    settle(pod)
    pod.run("ping", "-c", "1", "-W", "10", "fd00:57::7")


# Comparison with the reference plugin

ADDRESSES = {
    4: ["10.57.0.7/24", "10.57.0.8/24", "10.58.0.7/26", "10.59.0.7/32", "10.56.0.5/16", "::ffff:10.57.1.9/120"],
    6: ["fd00:57::7/64", "FD00:58::0007/64", "fd00:59::7/128", "fd00:56::5/64", "fe80::7/64"],
}
GATEWAYS = {
    4: ["", "10.57.0.1", "10.58.0.62", "10.58.0.254", "10.56.0.1", "::ffff:10.57.0.1"],
    6: ["", "fd00:57::1", "FD00:58::0001", "fe80::1", "fd00:56::1", "fd00:99::1"],
}
DESTINATIONS = {
    4: [
        "0.0.0.0/0",
        "10.57.0.0/24",
        "10.56.0.0/16",
        "10.96.0.0/12",
        "192.168.7.0/24",
        "192.168.7.9/32",
        "10.57.0.5/24",
    ],
    6: ["::/0", "fd00:57::/64", "fd00:56::/64", "fd00:96::/32", "FD01::/64", "fd01::9/128", "fd01::9/64"],
}


@st.composite
def ipams(draw: st.DrawFn) -> Config:
    addresses, routed = [], []
    for family in draw(st.sampled_from([(4,), (6,), (4, 6)])):
        chosen = draw(st.lists(st.sampled_from(ADDRESSES[family]), min_size=1, max_size=2, unique=True))
        gateways = st.sampled_from(GATEWAYS[family])
        addresses += [(address, draw(gateways)) for address in chosen]
        for _ in range(draw(st.integers(0, 3))):
            route = {draw(st.sampled_from(["dst", "Dst"])): draw(st.sampled_from(DESTINATIONS[family]))}
            if gateway := draw(gateways):
                route["gw"] = gateway
            routed.append(route)
    return static(*addresses, routes=draw(st.permutations(routed)))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # no shrinking, because each example takes half a second
)
@given(ipam=ipams())
def test_the_kernel_has_what_it_has_after_the_reference_plugin(
    netns: Namespaces, sandbox: Namespaces, ipam: Config
) -> None:
    theirs, ours, reference, host = sandbox(), sandbox(), netns(), Host(netns())
    add_device(reference, "eth4v0", f"{MAC[:-1]}0")
    before = routes(ours)
    try:
        by_reference(reference, theirs, ipam)
    except Error:
        with suppress(Error):  # the reference plugin may reject what works here
            host.add(ours, ipam)
            host.delete(ours)
    else:
        event("the reference plugin takes it")
        added = host.add(ours, ipam)
        settle(theirs)
        settle(ours)
        assert addresses(ours) == addresses(theirs)
        assert routes(ours) == routes(theirs)
        assert missing(ours, added) == []
        host.delete(ours)
    assert routes(ours) == before
    for each in (theirs, ours, reference, host.net):
        each.delete()
