"""Default routes in the kernel: removed from all other interfaces, set on one, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.node.conftest import Netns
from wirespeed.cni.plugin import Result
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.plugins.meta import gateway

NOTHING: Result = {"interfaces": [], "ips": [], "routes": [], "dns": {}}


@pytest.fixture
def pod(netns: Callable[[], Netns]) -> Netns:
    """A namespace with eth0 in 10.1.0.0/24 and net1 in 10.2.0.0/24, both with IPv6 addresses too."""
    made = netns()
    for number, name in ((1, "eth0"), (2, "net1")):
        made.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"peer{number}")
        made.run("ip", "addr", "add", f"10.{number}.0.2/24", "dev", name)
        made.run("ip", "addr", "add", f"fd00:{number}::2/64", "dev", name, "nodad")
        made.run("ip", "link", "set", name, "up")
        made.run("ip", "link", "set", f"peer{number}", "up")
    return made


def replace_default_routes(pod: Netns, *gateways: str) -> dict[str, Result]:
    with namespaces.opened(pod.path) as ns:
        return gateway.replace_default_routes(ns, "net1", gateways, {"eth0": NOTHING, "net1": NOTHING})


def fault(pod: Netns, *gateways: str) -> str:
    with namespaces.opened(pod.path) as ns:
        return gateway.fault(ns, "net1", gateways)


def defaults(pod: Netns, family: str = "-4") -> list[tuple[str, str]]:
    shown: list[dict[str, Any]] = json.loads(pod.run("ip", family, "-j", "route", "show", "default"))
    return sorted((route.get("gateway", ""), route.get("dev", "")) for route in shown)


@pytest.mark.parametrize(
    "before",
    [
        "-4 route add default via 10.1.0.1 dev eth0",
        "-4 route add default dev eth0 scope link",
        "-4 route add default via 10.1.0.1 dev eth0 metric 100 mtu 1400 proto dhcp",
        "-4 route add default nexthop via 10.1.0.1 dev eth0 nexthop via 10.2.0.9 dev net1",
        "-4 route add default via 10.2.0.9 dev net1",
    ],
)
def test_default_route_of_any_make_goes_and_the_asked_one_comes(pod: Netns, before: str) -> None:
    pod.run("ip", *before.split())
    pod.run("ip", "-4", "route", "add", "default", "via", "10.1.0.3", "dev", "eth0", "metric", "200")
    assert fault(pod, "10.2.0.1")
    assert replace_default_routes(pod, "10.2.0.1") == {
        "net1": {**NOTHING, "routes": [{"dst": "0.0.0.0/0", "gw": "10.2.0.1"}]}
    }
    assert defaults(pod) == [("10.2.0.1", "net1")]
    assert fault(pod, "10.2.0.1") == ""


@pytest.mark.parametrize(
    "before",
    [
        "-6 route add default via fd00:1::1 dev eth0",
        "-6 route add default via fe80::1 dev eth0 metric 512 proto ra",
        "-6 route add default nexthop via fd00:1::1 dev eth0 nexthop via fd00:2::9 dev net1",
    ],
)
def test_default_route_of_ipv6_goes_too(pod: Netns, before: str) -> None:
    pod.run("ip", "-4", "route", "add", "default", "via", "10.1.0.1", "dev", "eth0")
    pod.run("ip", *before.split())
    replace_default_routes(pod, "fd00:2::1")
    assert defaults(pod, "-6") == [("fd00:2::1", "net1")]
    assert defaults(pod) == [("10.1.0.1", "eth0")]
    assert fault(pod, "fd00:2::1") == ""


def test_routes_of_other_tables_and_of_other_kinds_stay(pod: Netns) -> None:
    pod.run("ip", "route", "add", "default", "via", "10.1.0.1", "dev", "eth0", "table", "100")
    pod.run("ip", "route", "add", "unreachable", "default", "metric", "9000")
    pod.run("ip", "route", "add", "10.9.0.0/16", "via", "10.1.0.1", "dev", "eth0")
    replace_default_routes(pod, "10.2.0.1")
    assert "default via 10.1.0.1 dev eth0" in pod.run("ip", "route", "show", "table", "100")
    shown = pod.run("ip", "route", "show")
    assert "unreachable default" in shown
    assert "10.9.0.0/16 via 10.1.0.1" in shown


def test_own_default_route_is_kept_alone_in_its_family(pod: Netns) -> None:
    for family, gateways in (("-4", ("10.1.0.1", "10.2.0.1")), ("-6", ("fd00:1::1",))):
        for metric, address in enumerate(gateways):
            dev = "net1" if address.startswith("10.2") else "eth0"
            pod.run(
                "ip", family, "route", "add", "default", "via", address, "dev", dev, "metric", str(100 + metric)
            )
    replace_default_routes(pod)
    assert defaults(pod) == [("10.2.0.1", "net1")]
    assert defaults(pod, "-6") == [("fd00:1::1", "eth0")]
    assert fault(pod) == ""
    pod.run("ip", "route", "add", "default", "via", "10.1.0.1", "dev", "eth0", "metric", "5")
    assert fault(pod) == "expected the IPv4 default route through net1 to be the only one"


def test_own_default_route_of_ipv6_is_kept_of_one_that_the_kernel_made_of_two(pod: Netns) -> None:
    for address, dev in (("fd00:1::1", "eth0"), ("fd00:2::1", "net1"), ("fd00:1::3", "eth0")):
        pod.run("ip", "-6", "route", "append", "default", "via", address, "dev", dev, "mtu", "1400")
    assert len(json.loads(pod.run("ip", "-6", "-j", "route", "show", "default"))[0]["nexthops"]) == 3
    assert fault(pod) == "expected the IPv6 default route through net1 to be the only one"
    replace_default_routes(pod)
    assert defaults(pod, "-6") == [("fd00:2::1", "net1")]
    assert fault(pod) == ""


@pytest.mark.parametrize("compatible", ["1", "0"])
def test_default_route_by_a_next_hop_object_goes_too(pod: Netns, compatible: str) -> None:
    pod.run("sysctl", "-qw", f"net.ipv4.nexthop_compat_mode={compatible}")
    for family, number, gateways in (("-4", 1, ("10.1.0.1", "10.2.0.9")), ("-6", 5, ("fd00:1::1", "fd00:2::9"))):
        for offset, (via, dev) in enumerate(zip(gateways, ("eth0", "net1"), strict=True)):
            pod.run("ip", family, "nexthop", "add", "id", str(number + offset), "via", via, "dev", dev)
        group = str(number + 2)
        pod.run("ip", "nexthop", "add", "id", group, "group", f"{number}/{number + 1}")
        pod.run("ip", family, "route", "add", "default", "nhid", group)
        pod.run("ip", family, "route", "add", "default", "nhid", str(number), "metric", "77")
    replace_default_routes(pod, "10.2.0.1", "fd00:2::1")
    assert defaults(pod) == [("10.2.0.1", "net1")]
    assert defaults(pod, "-6") == [("fd00:2::1", "net1")]
    assert fault(pod, "10.2.0.1", "fd00:2::1") == ""


def test_default_route_that_the_kernel_has_not_after_all_is_an_error(
    pod: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rtnl, "add_route", lambda *_, **__: None)
    with pytest.raises(Error) as wrong:
        replace_default_routes(pod, "10.2.0.1")
    assert wrong.value.kind == Kind.INTERFACE
    assert wrong.value.msg == "default route: expected the IPv4 default route through net1 to go to 10.2.0.1"


def test_attachment_without_a_network_interface_cannot_have_it(pod: Netns) -> None:
    pod.run("ip", "link", "del", "net1")
    with pytest.raises(Error, match="default route: the pod has no network interface net1"):
        replace_default_routes(pod, "10.2.0.1")
    assert fault(pod, "10.2.0.1") == "the pod has no network interface net1"
