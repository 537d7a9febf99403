"""host-local's ranges of addresses: reading and checking their configuration, and the order of allocation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Annotated

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import Ip, Prefix, parse_prefix
from wirespeed.errors import Error, Kind, about_keys
from wirespeed.ipam import conf
from wirespeed.structs import Words

_Subnet = Annotated[str, Words("a network with prefix length")]
_Gateway = Annotated[str, Words("an IP address", "address, may be outside the subnet")]


class RangeKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of a range; null is the same as no key."""

    subnet: _Subnet | None = None
    """a single range; for several ranges use `ranges`"""
    range_start: conf.AddressText | None = None
    """the first address to allocate; default: the first after the network address"""
    range_end: conf.AddressText | None = None
    """the last address to allocate; default: the last of the subnet, for IPv4 the last before the broadcast
    address"""
    gateway: _Gateway | None = None
    """never allocated; default: the first after the network address"""


Ranges = list[Annotated[list[RangeKeys], Meta(min_length=1)]]


@dataclass(frozen=True)
class Range:
    """The addresses from `start` to `end` (inclusive) of one subnet, except the gateway."""

    subnet: Prefix
    start: int
    end: int
    gateway: Ip

    def __str__(self) -> str:
        return f"{self._ip(self.start)}-{self._ip(self.end)}"

    def __contains__(self, ip: object) -> bool:
        return isinstance(ip, Ip) and ip.bits == self.subnet.ip.bits and self.start <= ip.value <= self.end

    def overlaps(self, other: Range) -> bool:
        same_family = self.subnet.ip.bits == other.subnet.ip.bits
        return same_family and self.start <= other.end and other.start <= self.end

    def walk(self, start: int, end: int) -> Iterator[Ip]:
        """Yield the addresses from start to end (inclusive) that may be allocated."""
        for value in range(start, end + 1):
            if (ip := self._ip(value)) != self.gateway:
                yield ip

    def _ip(self, value: int) -> Ip:
        return Ip(self.subnet.ip.bits, value)


RangeSet = tuple[Range, ...]


def find(ranges: Sequence[Range], ip: Ip) -> Range | None:
    """Return the range that contains the address."""
    return next((each for each in ranges if ip in each), None)


def format_ranges(ranges: Sequence[Range]) -> str:
    """Return the ranges as text for a message."""
    return ", ".join(map(str, ranges))


def allocation_order(ranges: Sequence[Range], last: Ip | None) -> Iterator[tuple[Range, Ip]]:
    """Yield every address once, starting after `last`: a released address is reused as late as possible."""
    at = next((index for index, each in enumerate(ranges) if last in each), 0)
    here = ranges[at]
    done = last.value if last is not None and last in here else here.start - 1
    parts = [(here, done + 1, here.end)]
    parts += [(each, each.start, each.end) for each in (*ranges[at + 1 :], *ranges[:at])]
    for each, start, end in (*parts, (here, here.start, done)):
        yield from ((each, ip) for ip in each.walk(start, end))


def read_sets(ipam: RangeKeys, listed: Ranges | None, runtime: Ranges | None) -> list[RangeSet]:
    """Check the range sets of a configuration; one address is allocated from each.

    The order, by which the last_reserved_ip files are numbered, is `runtime` (runtimeConfig.ipRanges), the single
    range of `ipam`, `listed` (ipam.ranges). Raises Error(INVALID_CONFIG).
    """
    sets = [*_sets("runtimeConfig.ipRanges", runtime)]
    if ipam.subnet is not None:
        sets.append((_range("ipam", ipam),))
    sets += _sets("ipam.ranges", listed)
    if not sets:
        keys = about_keys("subnet", "ranges")
        raise Error(Kind.INVALID_CONFIG, key="ipam", expected='the key "subnet" or "ranges"', about=keys)
    for one, other in combinations(chain.from_iterable(sets), 2):
        if one.overlaps(other):
            raise Error(Kind.INVALID_CONFIG, f"range {one} overlaps with {other}", key="ipam")
    return sets


def _sets(key: str, listed: Ranges | None) -> Iterator[RangeSet]:
    for number, each in enumerate(listed or ()):
        where = f"{key}[{number}]"
        ranges = tuple(_range(f"{where}[{index}]", keys) for index, keys in enumerate(each))
        if len({each.subnet.ip.bits for each in ranges}) > 1:
            raise structs.wrong(where, "ranges of one family, IPv4 or IPv6", format_ranges(ranges))
        yield ranges


def _range(where: str, keys: RangeKeys) -> Range:
    key = f"{where}.subnet"
    if keys.subnet is None:
        raise Error(Kind.INVALID_CONFIG, key=key, missing=True, expected=structs.expected(_Subnet))
    subnet = parse_prefix(keys.subnet)
    if subnet is None:
        raise structs.wrong(key, _Subnet, keys.subnet)
    bits = subnet.ip.bits
    if subnet.ip.value != subnet.first:
        network = Prefix(Ip(bits, subnet.first), subnet.length)
        raise structs.wrong(key, f"the network's own address, {network}", keys.subnet)
    if subnet.length > bits - 2:
        raise structs.wrong(key, f"a network of at most /{bits - 2}, to have addresses to give", keys.subnet)
    # Neither the network's own address (in IPv6 the subnet-router anycast address) nor IPv4's broadcast is usable.
    first, last = subnet.first + 1, subnet.last - (bits == 32)
    start = max(first, _inside(f"{where}.rangeStart", keys.range_start, subnet, first))
    end = min(last, _inside(f"{where}.rangeEnd", keys.range_end, subnet, last))
    if start > end:
        raise structs.wrong(
            f"{where}.rangeEnd", f"an address from {Ip(bits, start)} to {Ip(bits, last)}", str(Ip(bits, end))
        )
    gateway = conf.address(f"{where}.gateway", keys.gateway) if keys.gateway else Ip(bits, first)
    return Range(subnet, start, end, gateway)


def _inside(key: str, text: str | None, subnet: Prefix, default: int) -> int:
    if not text:
        return default
    ip = conf.address(key, text)
    if ip not in subnet:
        raise structs.wrong(key, f"an address of {subnet}", text)
    return ip.value
