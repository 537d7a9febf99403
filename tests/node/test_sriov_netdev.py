"""A pod's changes to a netdev are undone. The kernel is real; a veth acts as the VF's netdev."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import xdp
from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from wirespeed.devices import snapshot
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.restore import restore
from wirespeed.devices.snapshot import Snapshot
from wirespeed.devices.vf import find
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import Identity

PF = "0000:18:00.0"
NOWHERE = ("/run/netns/none", Identity(0, 0, 0))
MODES = {"generic": 2, "native": 4}  # XDP_FLAGS_*_MODE


@dataclass
class Host:
    """A node in a network namespace; its only VF has the netdev eth4v0."""

    net: Netns
    vf: PciDevice

    def inside(self, function: Callable[[], Any]) -> Any:
        with namespaces.opened(self.net.path) as ns:
            return namespaces.inside(ns.fd, function)

    def link(self) -> Link:
        with namespaces.opened(self.net.path) as ns, Rtnl(netns_fd=ns.fd) as host:
            link = host.link("eth4v0")
        assert link is not None
        return link

    def snapshot(self) -> Snapshot:
        def take() -> Snapshot:
            with Rtnl() as host:
                return snapshot.take(find(host, self.vf))

        taken: Snapshot = self.inside(take)
        return taken

    def restore(self, before: Snapshot) -> None:
        self.inside(lambda: restore(self.vf, before, NOWHERE, timeout=0, rdma={}))


@pytest.fixture
def host(netns: Callable[[], Netns], tmp_path: Path) -> Host:
    net, sysfs = netns(), FakeSysfs(tmp_path)
    (address,) = sysfs.pf(PF, "eth4", vfs=1)
    net.run("ip", "link", "add", "eth4", "type", "bridge")
    net.run("ip", "link", "add", "eth4v0", "mtu", "3000", "type", "veth", "peer", "name", "wire")
    net.run("ip", "link", "set", "eth4v0", "up")
    return Host(net, PciDevice(address, sysfs.root))


@pytest.mark.parametrize("mode", MODES)
def test_an_xdp_program_that_a_pod_attached_is_taken_off_in_whatever_mode(host: Host, mode: str) -> None:
    before = host.snapshot()
    xdp.attach(host.net.path, "eth4v0", MODES[mode])
    assert host.link().xdp == (mode,)
    host.restore(before)
    assert host.link().xdp == ()
    assert host.snapshot() == before


def test_an_xdp_program_that_was_there_before_stays(host: Host) -> None:
    xdp.attach(host.net.path, "eth4v0", MODES["generic"])
    before = host.snapshot()
    host.restore(before)
    assert host.link().xdp == ("generic",)


def test_an_xdp_program_that_a_process_holds_is_told_and_gone_with_it(host: Host) -> None:
    before = host.snapshot()
    held = xdp.hold(host.net.path, "eth4v0", MODES["generic"])
    with pytest.raises(Error, match=r"not restored: an XDP program is attached \(generic\)") as told:
        host.restore(before)
    assert told.value.kind == Kind.DEVICE
    os.close(held)
    host.restore(before)
    assert host.snapshot() == before


def test_arp_and_multicast_that_a_pod_switched_off_are_on_again(host: Host) -> None:
    before = host.snapshot()
    host.net.run("ip", "link", "set", "eth4v0", "arp", "off", "multicast", "off")
    assert (host.link().arp, host.link().multicast) == (False, False)
    host.restore(before)
    assert (host.link().arp, host.link().multicast) == (True, True)
    assert host.snapshot() == before


def test_arp_and_multicast_that_were_off_before_are_off_again(host: Host) -> None:
    host.net.run("ip", "link", "set", "eth4v0", "arp", "off", "multicast", "off")
    before = host.snapshot()
    host.net.run("ip", "link", "set", "eth4v0", "arp", "on", "multicast", "on")
    host.restore(before)
    assert (host.link().arp, host.link().multicast) == (False, False)


def test_a_journal_that_does_not_know_of_arp_leaves_it(host: Host) -> None:
    record = msgspec.json.decode(msgspec.json.encode(host.snapshot()))
    for key in ("arp", "multicast"):
        del record["link"][key]
    host.net.run("ip", "link", "set", "eth4v0", "arp", "off", "multicast", "off", "mtu", "1500")
    host.restore(msgspec.convert(record, Snapshot))
    assert (host.link().arp, host.link().multicast, host.link().mtu) == (False, False, 3000)
