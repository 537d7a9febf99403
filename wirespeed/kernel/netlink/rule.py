"""Rule messages: policy rules (`ip rule`), which select a routing table (linux/fib_rules.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

from wirespeed.kernel.netlink.codec import attribute, attributes, number, string, u32

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
_FRA_SRC, _FRA_IIFNAME, _FRA_TABLE, _FRA_OIFNAME = 2, 3, 15, 17
_FR_ACT_TO_TBL, _FIB_RULE_INVERT = 1, 2

_HEADER = struct.Struct("BBBBBxxBI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, action, flags

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PolicyRule(NamedTuple):
    """A policy rule: the number of its table, and the address or network address of its source (None: any).

    `message` is the body of the RTM_DELRULE request that removes it.
    """

    table: int
    source: Address | None
    message: bytes


class TableRule(NamedTuple):
    """A policy rule (`ip rule`) that selects a table for packets of these interfaces (all if empty) and sources."""

    table: int
    interfaces: frozenset[str]
    source: ipaddress.IPv4Network | ipaddress.IPv6Network | None


def pack_rule(source: Address, table: int) -> bytes:
    """Pack the rule that packets from one address are routed by a table; the kernel chooses its priority.

    For table 0, the kernel chooses a table without routes (IPv4), or refuses the rule (IPv6).
    """
    family = socket.AF_INET6 if source.version == 6 else socket.AF_INET
    short = table if table < 256 else 0  # the header has one byte: larger numbers are in FRA_TABLE alone
    packed = _HEADER.pack(family, 0, source.max_prefixlen, 0, short, _FR_ACT_TO_TBL, 0)
    return packed + attribute(_FRA_SRC, source.packed) + (u32(_FRA_TABLE, table) if table else b"")


def pack_rules_request(family: int = socket.AF_UNSPEC) -> bytes:
    """Pack a request for all policy rules."""
    return _HEADER.pack(family, *[0] * 6)


def unpack_rule(payload: bytes) -> PolicyRule:
    seen = attributes(payload, _HEADER.size)
    source = ipaddress.ip_address(seen[_FRA_SRC]) if _FRA_SRC in seen else None
    return PolicyRule(number(seen.get(_FRA_TABLE)) or payload[4], source, payload)


def unpack_table_rule(payload: bytes) -> TableRule | None:
    """Return a policy rule; None if it is inverted or does not select a table."""
    _, _, length, _, table, action, flags = _HEADER.unpack_from(payload)
    if action != _FR_ACT_TO_TBL or flags & _FIB_RULE_INVERT:
        return None
    seen = attributes(payload, _HEADER.size)
    interfaces = frozenset(string(seen[kind]) for kind in (_FRA_IIFNAME, _FRA_OIFNAME) if kind in seen)
    source = ipaddress.ip_network((seen[_FRA_SRC], length), strict=False) if _FRA_SRC in seen else None
    return TableRule(number(seen.get(_FRA_TABLE)) or table, interfaces, source)
