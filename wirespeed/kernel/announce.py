"""Announcing an interface's addresses to its neighbours: ARP announcements and unsolicited NAs.

A pod often gets an address that another pod had a moment ago with another MAC. Without an announcement, the
neighbours send to the old MAC until their caches time out.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

from wirespeed.kernel import netns
from wirespeed.kernel.netlink.codec import mac_bytes
from wirespeed.kernel.netlink.wait import wait_for_carrier

log = logging.getLogger(__name__)

# Seconds to wait for the carrier, as packets sent without one are lost. The namespace is kept open meanwhile.
CARRIER_TIMEOUT = 1.0

# Make the kernel announce later changes of the MAC by itself, and keep the IPv6 addresses of an interface that is
# set down, as it does with IPv4 addresses.
_SYSCTLS = ("ipv4/conf/{}/arp_notify", "ipv6/conf/{}/ndisc_notify", "ipv6/conf/{}/keep_addr_on_down")

_ETH_P_ARP, _ARPHRD_ETHER = 0x0806, 1
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_NEIGHBOUR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_LAYER_ADDRESS = 136, 0x20000000, 2


def in_background(ns: netns.NetNs, name: str, ips: Sequence[str]) -> None:
    """Announce addresses ("10.0.0.1/24") of an interface in a separate thread, once it has a carrier.

    This takes no longer than CARRIER_TIMEOUT; an exiting process waits for it. Failures are logged.
    """
    fd = os.dup(ns.fd)

    def run() -> None:
        try:
            netns.inside(fd, lambda: _announce(name, ips))
        except OSError as error:
            log.info("announcing %s in %s: %s", ", ".join(ips), ns.path, error)
        finally:
            os.close(fd)

    try:
        threading.Thread(target=run, name="announce").start()
    except RuntimeError as error:  # no more threads
        os.close(fd)
        log.info("announcing %s in %s: %s", ", ".join(ips), ns.path, error)


def _announce(name: str, ips: Sequence[str]) -> None:
    index = socket.if_nametoindex(name)
    for sysctl in _SYSCTLS:
        path = Path("/proc/sys/net") / sysctl.format(name)
        try:
            path.write_text("1")
        except OSError as error:  # no IPv6 in this kernel, /proc/sys mounted read-only
            log.debug("%s: %s", path, error)
    link = wait_for_carrier(index, timeout=CARRIER_TIMEOUT)
    if link is None:
        return
    mac = mac_bytes(link.mac)
    for ip in (ipaddress.ip_interface(text).ip for text in ips):
        if ip.version == 4:
            _announce_arp(link.name, mac, ip.packed)
        else:
            _advertise(index, mac, ip)


def _announce_arp(name: str, mac: bytes, ip: bytes) -> None:
    """Send an ARP announcement (RFC 5227, 2.3): a request with the address as both sender and target."""
    body = _ARP.pack(1, 0x0800, 6, 4, 1, mac, ip, bytes(6), ip)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.sendto(body, (name, _ETH_P_ARP, 0, _ARPHRD_ETHER, b"\xff" * 6))


def _advertise(index: int, mac: bytes, ip: ipaddress.IPv6Address) -> None:
    """Send an unsolicited neighbour advertisement (RFC 4861, 7.2.6) from the address to all nodes of the link."""
    body = struct.pack(">BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + ip.packed
    body += struct.pack("BB", _TARGET_LINK_LAYER_ADDRESS, 1) + mac
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as link:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        link.bind((str(ip), 0, 0, index))
        link.sendto(body, ("ff02::1", 0, 0, index))
