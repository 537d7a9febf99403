"""One MAC for two functions of a PF: two scalable functions on a fake bus, with real interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.sriov import address_conflicts

PF, MAC = "0000:18:00.0", "02:00:00:00:00:aa"


@dataclass
class Host:
    """A node with two scalable functions of one PF, with the interfaces sf0 and sf1."""

    net: Netns
    node: Node
    names: list[str]

    def call(self, verb: str, number: int, pod: Netns, **keys: Any) -> Any:
        config = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": self.names[number]}
        request = Request(
            command=verb,
            container_id=pod.name,
            netns=pod.path,
            ifname="net1",
            args={"K8S_POD_NAMESPACE": "vms", "K8S_POD_NAME": f"vm{number}"},
            config=config | keys,
        )
        plugin = self.node.plugin("sriov")
        with namespaces.opened(self.net.path) as ns:
            return namespaces.inside(ns.fd, lambda: getattr(plugin, {"ADD": "add", "DEL": "delete"}[verb])(request))

    def owners(self) -> list[str]:
        return [claim.container for claim in self.node.journal.claims()]


@pytest.fixture
def host(netns: Callable[[], Netns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    net, sysfs = netns(), FakeSysfs(tmp_path / "sys")
    sysfs.pf(PF, "eth4", driver="mlx5_core")
    names = [sysfs.function(PF, f"mlx5_core.sf.{n}", 88 + n, interface=f"sf{n}") for n in (0, 1)]
    for number in (0, 1):
        net.run("ip", "link", "add", f"sf{number}", "type", "veth", "peer", "name", f"wire{number}")
    indexes = {net.links()[f"sf{number}"]["ifindex"]: name for number, name in enumerate(names)}

    def of_device(self: Rtnl, parent: str) -> Link | None:
        """Identify the interface by its index, which it keeps in every namespace: a veth has no parent device."""
        return next((link for link in self.links() if indexes.get(link.index) == parent), None)

    monkeypatch.setattr(Rtnl, "link_of_device", of_device)
    node = Node(NodeConfig(state=str(tmp_path / "run/state.db"), sysfs=str(sysfs.root), leases=str(tmp_path / "l")))
    yield Host(net, node, names)
    node.close()


def test_mac_of_a_pod_that_lives_is_refused_by_its_name_and_nothing_is_changed(
    host: Host, netns: Callable[[], Netns]
) -> None:
    first, second = netns(), netns()
    host.call("ADD", 0, first, mac=MAC)
    before = host.net.links()["sf1"]
    with pytest.raises(Error) as refused:
        host.call("ADD", 1, second, mac=MAC)
    assert refused.value.kind == Kind.TRY_AGAIN
    assert (
        f'key "mac": {MAC} belongs to device mlx5_core.sf.0, which is net1 of pod vms/vm0 (container {first.name})'
    ) in refused.value.msg
    assert host.net.links()["sf1"]["address"] == before["address"]
    assert host.owners() == [first.name]
    host.call("DEL", 0, first)
    host.call("ADD", 1, second, mac=MAC)
    assert second.links()["net1"]["address"] == MAC
    host.call("DEL", 1, second)
    assert host.owners() == []


def test_mac_of_a_pod_that_is_gone_is_taken_from_it_first(host: Host, netns: Callable[[], Netns]) -> None:
    first, second = netns(), netns()
    was = host.net.links()["sf0"]["address"]
    host.call("ADD", 0, first, mac=MAC, mtu=1400)
    # The kernel would return a device's interface to the host, but it deletes a veth pair.
    first.run("ip", "link", "set", "net1", "down", "netns", host.net.name, "name", "sf0")
    first.delete()
    host.call("ADD", 1, second, mac=MAC)
    there = host.net.links()["sf0"]
    assert (there["address"], there["mtu"]) == (was, 1500)
    assert second.links()["net1"]["address"] == MAC
    assert host.owners() == [second.name]
    host.call("DEL", 0, first)  # late: nothing of it is left
    assert second.links()["net1"]["address"] == MAC
    host.call("DEL", 1, second)
    assert host.owners() == []


def test_of_two_pods_that_want_one_mac_at_once_one_gets_it(
    host: Host, netns: Callable[[], Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    pods, both_looked, check = [netns(), netns()], Barrier(2), address_conflicts.check

    def look(*given: Any) -> None:
        """Give the other call time to check too, before this one is in the journal. It must not be able to."""
        check(*given)
        with suppress(BrokenBarrierError):
            both_looked.wait(0.5)

    monkeypatch.setattr(address_conflicts, "check", look)

    def add(number: int) -> bool:
        try:
            host.call("ADD", number, pods[number], mac=MAC)
        except Error as error:
            assert f"{MAC} belongs to device" in error.msg
            return False
        return True

    with ThreadPoolExecutor(2) as both:
        got = list(both.map(add, (0, 1)))
    assert sorted(got) == [False, True]
    winner = got.index(True)
    assert host.owners() == [pods[winner].name]
    host.call("DEL", winner, pods[winner])
