"""Address messages: the addresses of an interface (linux/if_addr.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct

from wirespeed.kernel.netlink.codec import attribute, attributes, number

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 4, 6, 8
_RT_SCOPE_UNIVERSE = 0  # linux/rtnetlink.h
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40

IFADDRMSG = struct.Struct("BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index


Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface  # an address with the length of its network's prefix


def pack_address(index: int, cidr: str, *, detect_duplicates: bool = False) -> bytes:
    """Pack an address; a new one of IPv6 is usable at once, or once the kernel has detected no duplicate."""
    interface = ipaddress.ip_interface(cidr)
    six = interface.version == 6
    flags = IFA_F_NODAD if six and not detect_duplicates else 0
    family, prefix = socket.AF_INET6 if six else socket.AF_INET, interface.network.prefixlen
    packed = IFADDRMSG.pack(family, prefix, flags, 0, index)
    packed += attribute(IFA_LOCAL, interface.ip.packed) + attribute(IFA_ADDRESS, interface.ip.packed)
    if not six and prefix < 31:
        packed += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return packed


def pack_again(payload: bytes) -> bytes:
    """Pack an address as the kernel lists it, with its flags and lifetimes, to add it again."""
    seen = attributes(payload, IFADDRMSG.size)
    kept = (IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS)
    return payload[: IFADDRMSG.size] + b"".join(attribute(kind, seen[kind]) for kind in kept if kind in seen)


def is_global(payload: bytes) -> bool:
    """Whether the address is not limited to the link or the host."""
    return payload[3] == _RT_SCOPE_UNIVERSE  # ifa_scope is the fourth byte


def unpack_flags(payload: bytes) -> int:
    """Return the flags (IFA_F_*) of an address; the header has only the first eight."""
    packed = attributes(payload, IFADDRMSG.size).get(IFA_FLAGS)
    return number(packed) if packed else int(payload[2])


def unpack_address(payload: bytes) -> Interface:
    seen = attributes(payload, IFADDRMSG.size)
    packed = seen.get(IFA_LOCAL) or seen[IFA_ADDRESS]  # IPv6 has IFA_ADDRESS alone
    return ipaddress.ip_interface((packed, payload[1]))  # ifa_prefixlen is the second byte
