"""New addresses are announced to the neighbours' caches, and ADD does not wait for it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.calling import until
from tests.node.conftest import PATIENCE, Netns
from wirespeed.kernel import announce
from wirespeed.kernel import netns as host_netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import set_mac, wait_for_carrier

MAC = "02:00:00:00:00:01"
ETH_P_ALL = 3


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


@pytest.fixture
def pod_and_neighbour(netns: Callable[[], Netns]) -> tuple[Netns, Netns]:
    """Two namespaces connected by a veth pair, net1 and peer. peer is down, so net1 has no carrier yet."""
    pod, neighbour = netns(), netns()
    ip(
        "-n",
        pod.name,
        "link",
        "add",
        "net1",
        "address",
        MAC,
        "type",
        "veth",
        "peer",
        "peer",
        "netns",
        neighbour.name,
    )
    pod.run("sysctl", "-qw", "net.ipv6.conf.net1.accept_dad=0")
    pod.run("ip", "link", "set", "net1", "up")
    for address in ("10.0.0.5/24", "fd00::5/64"):
        pod.run("ip", "addr", "add", address, "dev", "net1", *(("nodad",) if ":" in address else ()))
    return pod, neighbour


@contextmanager
def opened(path: str) -> Iterator[tuple[host_netns.NetNs, int]]:
    """The namespace at `path`, and the index of its net1."""
    with host_netns.opened(path) as ns, Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link("net1")
        assert link is not None
        yield ns, link.index


def listener(neighbour: Netns) -> socket.socket:
    """A socket that receives all frames arriving at the neighbour."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.settimeout(PATIENCE)
        return made

    with host_netns.opened(neighbour.path) as ns:
        return host_netns.inside(ns.fd, make)


def arrives(listening: socket.socket, wanted: Callable[[bytes], bool]) -> bytes:
    while True:
        frame = listening.recv(2048)
        if wanted(frame):
            return frame


def test_both_families_are_announced_once_there_is_a_carrier(
    pod_and_neighbour: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "CARRIER_TIMEOUT", PATIENCE)
    pod, neighbour = pod_and_neighbour
    mac = bytes.fromhex(MAC.replace(":", ""))
    with listener(neighbour) as listening, opened(pod.path) as (ns, _):
        announce.in_background(ns, "net1", ["10.0.0.5/24", "fd00::5/64"])
        neighbour.run("ip", "link", "set", "peer", "up")
        arp = arrives(listening, lambda frame: frame[12:14] == b"\x08\x06")
        assert (arp[:6], arp[6:12]) == (b"\xff" * 6, mac)
        address = socket.inet_aton("10.0.0.5")
        assert arp[14:42] == bytes.fromhex("0001080006040001") + mac + address + bytes(6) + address
        six = socket.inet_pton(socket.AF_INET6, "fd00::5")
        advertised = arrives(listening, lambda frame: frame[12:14] == b"\x86\xdd" and frame[54:55] == b"\x88")
        assert (advertised[21], advertised[22:38]) == (255, six)
        assert advertised[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1")
        assert advertised[58:86] == bytes.fromhex("20000000") + six + b"\x02\x01" + mac


def test_a_stale_neighbour_learns_the_new_mac(pod_and_neighbour: tuple[Netns, Netns]) -> None:
    pod, neighbour = pod_and_neighbour
    for address in ("10.0.0.9/24", "fd00::9/64"):
        neighbour.run("ip", "addr", "add", address, "dev", "peer", *(("nodad",) if ":" in address else ()))
    neighbour.run("ip", "link", "set", "peer", "up")
    # The neighbour's reply shows that multicasts reach it.
    pod.run("ping", "-L", "-c", "1", "-i", "0.2", "-w", str(int(PATIENCE)), "ff02::1%net1")
    for address in ("10.0.0.5", "fd00::5"):
        stale = ("lladdr", "02:00:00:00:00:99", "dev", "peer", "nud", "stale")
        neighbour.run("ip", "neigh", "replace", address, *stale)
    with opened(pod.path) as (ns, _):
        announce.in_background(ns, "net1", ["10.0.0.5/24", "fd00::5/64"])

    def known() -> dict[str, str]:
        shown = json.loads(neighbour.run("ip", "-json", "neigh", "show", "dev", "peer"))
        return {entry["dst"]: entry["lladdr"] for entry in shown if "lladdr" in entry}

    wanted = {"10.0.0.5": MAC, "fd00::5": MAC}.items()
    until(lambda: wanted <= known().items(), "learnt the new MAC")


def test_an_interface_that_goes_is_not_waited_for(pod_and_neighbour: tuple[Netns, Netns]) -> None:
    pod, _ = pod_and_neighbour
    with opened(pod.path) as (ns, index):
        deleting = threading.Timer(0.05, pod.run, ("ip", "link", "del", "net1"))
        deleting.start()
        assert host_netns.inside(ns.fd, lambda: wait_for_carrier(index, timeout=PATIENCE)) is None
        deleting.join()


def test_the_kernel_announces_later_changes_by_itself(pod_and_neighbour: tuple[Netns, Netns]) -> None:
    pod, neighbour = pod_and_neighbour
    neighbour.run("ip", "link", "set", "peer", "up")
    with listener(neighbour) as listening, opened(pod.path) as (ns, _):
        announce.in_background(ns, "net1", ["10.0.0.5/24"])
        arrives(listening, lambda frame: frame[12:14] == b"\x08\x06")
    for sysctl in announce._SYSCTLS:
        assert pod.run("cat", str(Path("/proc/sys/net") / sysctl.format("net1"))) == "1\n"


def test_a_mac_that_the_interface_gets_by_itself_is_enough(pod_and_neighbour: tuple[Netns, Netns]) -> None:
    pod, _ = pod_and_neighbour
    multicast = "03:00:00:00:00:01"  # rejected with EADDRNOTAVAIL

    def wait() -> None:
        set_mac(index, multicast, retry_on={99}, timeout=0.2)

    with opened(pod.path) as (ns, index):
        with pytest.raises(NetlinkError, match="Cannot assign"):
            host_netns.inside(ns.fd, wait)
        with pytest.raises(NetlinkError, match="Cannot assign"):
            host_netns.inside(ns.fd, lambda: set_mac(index, multicast, retry_on=(), timeout=PATIENCE))
        host_netns.inside(ns.fd, lambda: set_mac(index, MAC, retry_on=(), timeout=0))
        host_netns.inside(ns.fd, lambda: set_mac(index, "02:00:00:00:00:02", retry_on=(), timeout=0))
    assert pod.links()["net1"]["address"] == "02:00:00:00:00:02"
