"""The effect of a VF's settings on its packets, as received on the PF's interface and by another pod."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.lab.conftest import PFS, LabVfs, Runtime, conf, host_local, in_namespace, sh
from wirespeed.kernel import netns as host_netns
from wirespeed.kernel.netlink.wait import wait_for_carrier

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
ETHERTYPE = 0x88B5  # IEEE 802: local experimental EtherType
PATIENCE = 20
_SOL_PACKET, _AUXDATA, _VLAN_VALID = 263, 8, 1 << 4  # linux/if_packet.h
_ALL = 0x0003  # ETH_P_ALL
Namespaces = Callable[[], str]


class Frame(NamedTuple):
    """A received frame; `vlan` and `priority` are 0 if it was untagged."""

    source: str
    payload: bytes
    vlan: int
    priority: int


@pytest.fixture
def heard() -> Iterator[socket.socket]:
    """A socket that receives all frames of the PF's interface, including those tagged with VLAN 100."""
    sh("ip", "link", "add", "link", PFS[0], "name", "heard", "type", "vlan", "id", "100")
    sh("ip", "link", "set", "heard", "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as listening:
        listening.bind((PFS[0], _ALL))
        listening.settimeout(PATIENCE)
        listening.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        yield listening
    sh("ip", "link", "delete", "heard")


def until(heard: socket.socket, last: bytes) -> list[Frame]:
    """The received frames of these tests, up to the one with this payload."""
    found: list[Frame] = []
    while not found or found[-1].payload != last:
        data, ancillary, _, _ = heard.recvmsg(2048, 256)
        status, tag = struct.unpack_from("I12xH", ancillary[0][2])  # struct tpacket_auxdata: the NIC strips tags
        if struct.unpack_from("!H", data, 12)[0] == ETHERTYPE:
            tag = tag if status & _VLAN_VALID else 0
            source = ":".join(f"{byte:02x}" for byte in data[6:12])
            found.append(Frame(source, data[14:].rstrip(b"\0"), tag & 0xFFF, tag >> 13))
    return found


def send(netns: str, payload: bytes) -> None:
    """Broadcast it from the pod's interface, once that has a carrier."""
    header = b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) + struct.pack("!H", ETHERTYPE)

    def inside() -> None:
        link = wait_for_carrier(socket.if_nametoindex("net1"), timeout=PATIENCE)
        assert link is not None
        assert link.running
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("net1", 0))
            out.send((header + payload).ljust(60, b"\0"))

    with host_netns.opened(netns) as pod:
        host_netns.inside(pod.fd, inside)


@pytest.mark.parametrize(
    ("keys", "tag"), [({"vlan": 100, "vlanQoS": 3}, (100, 3)), ({"vlan": 0}, (0, 0)), ({}, (0, 0))]
)
def test_what_a_pod_sends_has_its_mac_vlan_and_priority(
    agent: Runtime,
    vfs: LabVfs,
    namespaces: Namespaces,
    heard: socket.socket,
    keys: dict[str, int],
    tag: tuple[int, int],
) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], mac=MAC, **keys)
    assert agent.add("sender", asked, netns).code == 0
    send(netns, b"own")
    assert until(heard, b"own") == [Frame(MAC, b"own", *tag)]
    assert agent.delete("sender", asked, netns).code == 0


@pytest.mark.parametrize("mtu", [1400, 2000])
def test_a_ping_of_the_mtu_passes_whole_and_no_larger_one(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, mtu: int
) -> None:
    pods = [(f"pod{n}", namespaces(), conf(vfs.kernel[n], mtu=mtu, vlan=50, ipam=host_local(4))) for n in (0, 1)]
    added = [agent.add(container, asked, netns) for container, netns, asked in pods]
    assert [each.code for each in added] == [0, 0]
    other = added[1].body["ips"][0]["address"].split("/")[0]
    ping = ("ping", "-M", "do", "-i", "0.2", "-w", str(PATIENCE))
    in_namespace(pods[0][1], *ping, "-c", "2", "-s", str(mtu - 28), other)  # minus the IP and ICMP headers
    with pytest.raises(subprocess.CalledProcessError):
        in_namespace(pods[0][1], *ping, "-c", "1", "-w", "1", "-s", str(mtu - 27), other)
    for container, netns, asked in pods:
        assert agent.delete(container, asked, netns).code == 0
