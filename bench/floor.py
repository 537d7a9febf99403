"""The minimum time in the kernel: the netlink messages that an attachment needs at least, prepared in advance."""

from __future__ import annotations

import os
import socket
import struct
import time

from bench.systems import CallFailedError, sandbox
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.address import RTM_NEWADDR, pack_address
from wirespeed.kernel.netlink.codec import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    attribute,
    mac_bytes,
    pack_message,
    text,
    u32,
)
from wirespeed.kernel.netlink.link import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_NET_NS_FD,
    RTM_SETLINK,
    Link,
    pack_link,
)
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import ETH_P_8021Q, VfSettings, pack_vf

MAC = "02:00:00:00:00:f0"
NO_MAC = "00:00:00:00:00:00"
GIVEN = VfSettings(mac=MAC, vlan=100, vlan_qos=0, vlan_proto=ETH_P_8021Q, spoofchk=True, trust=True)
TAKEN = VfSettings(mac=NO_MAC, vlan=0, vlan_qos=0, vlan_proto=ETH_P_8021Q, spoofchk=True, trust=False)


class Floor:
    """A VF that gets a MAC, a VLAN, spoof checking and trust. Its netdev, if any, is moved and gets an address.

    Only the time from sending a message to receiving its answer is measured.
    """

    def __init__(self, address: str) -> None:
        device = PciDevice(address)
        pf = device.physical_function
        if pf is None:
            raise CallFailedError(f"{address} is no VF")
        with Rtnl() as host:
            pf_link = host.link(pf.own_netdev)
            self._link = host.link(device.netdevs[0]) if device.netdevs else None
        if pf_link is None:
            raise CallFailedError(f"{pf.address} has no interface")
        self._give = _settings(pf_link.index, device.vf_index, GIVEN)
        self._take = _settings(pf_link.index, device.vf_index, TAKEN)

    def add_and_delete(self) -> dict[str, float]:
        """Return the milliseconds of an ADD and of its DEL."""
        with _socket() as host:
            if self._link is None:
                return {"ADD": _exchange(host, self._give), "DEL": _exchange(host, self._take)}
            with (
                sandbox() as made,
                netns.opened(made.path) as pod,
                netns.opened("/proc/self/ns/net") as home,
                netns.inside(pod.fd, _socket) as inside,
            ):
                return self._moved(host, inside, self._link, pod.fd, home.fd)

    def _moved(
        self, host: socket.socket, inside: socket.socket, link: Link, pod: int, home: int
    ) -> dict[str, float]:
        index, mac = link.index, link.mac
        there = _set_link(index, pod, "net1", MAC, IFF_UP)
        address = _message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, pack_address(index, "10.9.0.5/24"))
        back = _set_link(index, home, link.name, mac, 0)
        add = _exchange(host, self._give) + _exchange(host, there) + _exchange(inside, address)
        # Moved back while the VF is still trusted, because only then may it restore its own MAC.
        return {"ADD": add, "DEL": _exchange(inside, back) + _exchange(host, self._take)}


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.bind((0, 0))
    return made


def _exchange(link: socket.socket, message: bytes) -> float:
    began = time.perf_counter()
    link.send(message)
    answer = link.recv(1 << 16)
    took = (time.perf_counter() - began) * 1000
    number = -struct.unpack_from("i", answer, 16)[0]
    if number:
        raise CallFailedError(f"the kernel refuses a message of the floor: {os.strerror(number)}")
    return took


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return pack_message(kind, flags | NLM_F_ACK, 1, body)


def _settings(pf_index: int, vf: int, settings: VfSettings) -> bytes:
    return _message(RTM_SETLINK, 0, pack_link(pf_index) + pack_vf(vf, settings))


def _set_link(index: int, netns_fd: int, name: str, mac: str, flags: int) -> bytes:
    attributes = u32(IFLA_NET_NS_FD, netns_fd) + text(IFLA_IFNAME, name)
    attributes += attribute(IFLA_ADDRESS, mac_bytes(mac))
    return _message(RTM_SETLINK, 0, pack_link(index, flags=flags, change=IFF_UP) + attributes)
