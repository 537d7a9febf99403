"""Address messages: the addresses of an interface (linux/if_addr.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from wirespeed.kernel.netlink.codec import attribute, attributes

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 2

IFADDRMSG = struct.Struct("BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index


@dataclass(frozen=True, kw_only=True)
class Address:
    """An address of an interface, as "10.0.0.1/24"."""

    index: int
    cidr: str


def pack_interface(index: int) -> bytes:
    """Pack the request for the addresses of an interface, both families."""
    return IFADDRMSG.pack(0, 0, 0, 0, index)


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


def unpack_address(payload: bytes) -> Address:
    _, prefix, _, _, index = IFADDRMSG.unpack_from(payload)
    seen = attributes(payload, IFADDRMSG.size)
    packed = seen.get(IFA_LOCAL) or seen[IFA_ADDRESS]  # IPv6 has IFA_ADDRESS alone
    return Address(index=index, cidr=f"{ipaddress.ip_address(packed)}/{prefix}")
