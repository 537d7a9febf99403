"""Addresses, parsed as strictly as the kernel and Go's net package do.

IP addresses and prefixes are kept as integers. Netmasks, leading zeros and zones are not accepted. This takes a
tenth of the time of the ipaddress module; each ADD parses addresses several times.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated, NamedTuple

from msgspec import Meta

from wirespeed.structs import Words, whole, wrong

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DOTTED = re.compile(r"[0-9a-f]{4}(\.[0-9a-f]{4})+")  # a MAC address or GUID in the notation of switches
# A MAC address in a configuration, in the notations that `read_mac` reads; "" is none.
UnicastMac = Annotated[
    str,
    Meta(
        pattern=whole(
            r"[0-9a-fA-F][02468aAcCeE]([:-][0-9a-fA-F]{2}){5}|[0-9a-fA-F][02468aAcCeE][0-9a-fA-F]{2}(\.[0-9a-fA-F]{4}){2}|"
        )
    ),
    Words("a unicast MAC address like 02:00:00:00:00:01", "unicast MAC address"),
]


class Ip(NamedTuple):
    """An address: its `bits` (32 or 128) and its value. Addresses of one family compare by value."""

    bits: int
    value: int

    def __str__(self) -> str:
        if self.bits == 32:
            return socket.inet_ntop(socket.AF_INET, self.value.to_bytes(4, "big"))
        if self.value >> 32 == 0:  # inet_ntop writes these as ::192.0.2.1, RFC 5952 and Go do not
            high, low = divmod(self.value, 1 << 16)
            return f"::{high:x}:{low:x}" if high else f"::{low:x}" if low else "::"
        return socket.inet_ntop(socket.AF_INET6, self.value.to_bytes(16, "big"))


class Prefix(NamedTuple):
    """An address with the length of its network's prefix: "10.1.2.3/24"."""

    ip: Ip
    length: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.length}"

    @property
    def first(self) -> int:
        """The network's own address."""
        return self.ip.value & ~self._host

    @property
    def last(self) -> int:
        """The network's highest address; IPv4's broadcast."""
        return self.ip.value | self._host

    @property
    def _host(self) -> int:
        return (1 << (self.ip.bits - self.length)) - 1

    def __contains__(self, ip: object) -> bool:
        return isinstance(ip, Ip) and ip.bits == self.ip.bits and self.first <= ip.value <= self.last


def parse_ip(text: object) -> Ip | None:
    """Parse an address; None if it is invalid. An IPv4-mapped IPv6 address is returned as IPv4, as in Go."""
    if not isinstance(text, str):
        return None
    try:
        if ":" not in text:
            return Ip(32, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"))
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):  # ValueError: a NUL, or characters that do not encode
        return None
    return Ip(32, value & 0xFFFFFFFF) if value >> 32 == 0xFFFF else Ip(128, value)


def parse_prefix(text: object) -> Prefix | None:
    """Parse an address with prefix length ("10.1.2.3/24"); None if it is invalid."""
    if not isinstance(text, str):
        return None
    address, slash, length = text.partition("/")
    ip = parse_ip(address)
    if ip is None or not slash or not length.isascii() or not length.isdigit() or len(length) > 3:
        return None
    # The prefix length of an IPv4-mapped address is that of IPv6: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    bits = int(length) - (96 if ":" in address and ip.bits == 32 else 0)
    return Prefix(ip, bits) if 0 <= bits <= ip.bits else None


def octets(value: object) -> str:
    """Return a MAC address or GUID as the kernel writes it, 02:00:00:00:00:01; "" if `value` is not a string.

    Accepts the notations of Go's net.ParseMAC: also 02-00-00-00-00-01, 0200.0000.0001. Does not validate it.
    """
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if _DOTTED.fullmatch(text):
        digits = text.replace(".", "")
        text = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    return text


def read_mac(text: str | None) -> str:
    """Return the unicast MAC address of a key "mac" as `octets` does, "" for none. Raises Error(INVALID_CONFIG)."""
    found = octets(text)
    if found and (not _MAC.fullmatch(found) or int(found[:2], 16) & 1 or found == "00:00:00:00:00:00"):
        raise wrong("mac", UnicastMac, text)
    return found
