"""Which interfaces carry a default route, and notifications when that changes."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator

import pytest

from tests.node.conftest import PATIENCE, Netns
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.routes import DefaultRouteEvents, default_route_interfaces


class Space:
    """A namespace with two veth pairs, v0/v1 and w0/w1, up and with addresses."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        for number, (name, peer) in enumerate((("v0", "v1"), ("w0", "w1"))):
            self.ip("link", "add", name, "type", "veth", "peer", "name", peer)
            self.ip("addr", "add", f"192.0.{number + 2}.1/24", "dev", name)
            self.ip("addr", "add", f"2001:db8:{number}::1/64", "dev", name, "nodad")
            for link in (name, peer):
                self.ip("link", "set", link, "up")

    def ip(self, *arguments: str) -> None:
        self.netns.run("ip", *arguments)

    def interfaces(self) -> set[str]:
        with namespaces.opened(self.netns.path) as opened:
            return namespaces.inside(opened.fd, default_route_interfaces)

    @contextlib.contextmanager
    def events(self) -> Iterator[DefaultRouteEvents]:
        with namespaces.opened(self.netns.path) as opened:
            made = namespaces.inside(opened.fd, DefaultRouteEvents)
        with contextlib.closing(made):
            yield made


@pytest.fixture
def space(netns: Callable[[], Netns]) -> Space:
    return Space(netns())


V4 = ("route", "add", "default", "via", "192.0.2.9")
V6 = ("-6", "route", "add", "default", "via", "2001:db8::9")


@pytest.mark.parametrize("route", [V4, V6, ("route", "add", "default", "dev", "v0", "scope", "link")])
def test_interface_of_a_default_route_is_told(space: Space, route: tuple[str, ...]) -> None:
    assert space.interfaces() == set()
    space.ip(*route)
    assert space.interfaces() == {"v0"}


def test_interfaces_of_all_next_hops_are_told(space: Space) -> None:
    space.ip("route", "add", "default", "nexthop", "via", "192.0.2.9", "nexthop", "via", "192.0.3.9")
    assert space.interfaces() == {"v0", "w0"}


@pytest.mark.parametrize("told", ["1", "0"])
def test_interfaces_of_next_hop_objects_are_told(space: Space, told: str) -> None:
    space.netns.run("sysctl", "-qw", f"net.ipv4.nexthop_compat_mode={told}")
    space.ip("nexthop", "add", "id", "1", "via", "192.0.2.9", "dev", "v0")
    space.ip("nexthop", "add", "id", "2", "via", "192.0.3.9", "dev", "w0")
    space.ip("nexthop", "add", "id", "3", "group", "1/2")
    space.ip("route", "add", "default", "nhid", "3")
    assert space.interfaces() == {"v0", "w0"}


@pytest.mark.parametrize(
    "route",
    [
        ("route", "add", "10.0.0.0/8", "via", "192.0.2.9"),
        ("route", "add", "default", "via", "192.0.2.9", "table", "100"),
        ("route", "add", "blackhole", "default"),
        ("-6", "route", "add", "unreachable", "default"),
    ],
)
def test_other_routes_do_not_count(space: Space, route: tuple[str, ...]) -> None:
    with space.events() as events:
        space.ip(*route)
        assert select.select([events], [], [], PATIENCE)[0]
        assert not events.drain()
    assert space.interfaces() == set()


@pytest.mark.parametrize("route", [V4, V6])
def test_route_that_comes_or_goes_is_noticed_once(space: Space, route: tuple[str, ...]) -> None:
    with space.events() as events:
        assert not events.drain()
        space.ip(*route)
        assert events.drain()
        assert not events.drain()
        space.ip(*["del" if word == "add" else word for word in route])
        assert events.drain()


@pytest.mark.parametrize(
    "change",
    [
        ("addr", "flush", "dev", "v0"),
        ("addr", "del", "192.0.2.1/24", "dev", "v0"),
        ("link", "set", "v0", "down"),
        ("link", "del", "v0"),
    ],
)
@pytest.mark.parametrize("known", ["at the start", "by a notice"])
def test_route_that_goes_with_its_address_or_link_is_noticed(
    space: Space, change: tuple[str, ...], known: str
) -> None:
    if known == "at the start":
        space.ip(*V4)
    with space.events() as events:
        if known == "by a notice":
            space.ip(*V4)
            assert events.drain()
        assert space.interfaces() == {"v0"}
        space.ip(*change)
        assert events.drain()
        assert space.interfaces() == set()


def test_what_happens_to_other_links_is_not_counted(space: Space) -> None:
    space.ip(*V4)
    with space.events() as events:
        space.ip("link", "add", "br0", "type", "bridge")
        space.ip("link", "set", "w1", "master", "br0")
        space.ip("addr", "flush", "dev", "w0")
        space.ip("link", "set", "w0", "down")
        space.ip("link", "set", "v0", "mtu", "1400")
        space.ip("link", "del", "w0")
        assert not events.drain()


def test_more_notices_than_fit_count(space: Space) -> None:
    with space.events() as events:
        batch = "".join(
            f"route add 10.{high}.{low}.0/24 via 192.0.2.9\n" for high in range(8) for low in range(250)
        )
        space.netns.run("sh", "-c", f"printf '{batch}' | ip -batch -")
        assert events.drain()
        assert not events.drain()
