"""Address messages: the addresses of an interface (linux/if_addr.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct

from wirespeed.kernel.netlink.codec import attribute, attributes

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 2

IFADDRMSG = struct.Struct("BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index


Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface  # an address with the length of its network's prefix


def pack_address(index: int, cidr: str) -> bytes:
    """Pack a new address; IPv6 without duplicate address detection."""
    interface = ipaddress.ip_interface(cidr)
    six = interface.version == 6
    flags = IFA_F_NODAD if six else 0  # the IPAM ensures that it is unique; it is usable at once
    family, prefix = socket.AF_INET6 if six else socket.AF_INET, interface.network.prefixlen
    packed = IFADDRMSG.pack(family, prefix, flags, 0, index)
    packed += attribute(IFA_LOCAL, interface.ip.packed) + attribute(IFA_ADDRESS, interface.ip.packed)
    if not six and prefix < 31:
        packed += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return packed


def unpack_address(payload: bytes) -> Interface:
    seen = attributes(payload, IFADDRMSG.size)
    packed = seen.get(IFA_LOCAL) or seen[IFA_ADDRESS]  # IPv6 has IFA_ADDRESS alone
    return ipaddress.ip_interface((packed, payload[1]))  # ifa_prefixlen is the second byte
