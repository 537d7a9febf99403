"""host-local's ranges of addresses: reading and checking their configuration, and the order of allocation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from wirespeed import structs
from wirespeed.cni.address import Ip, Prefix, parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.ipam import conf

_Subnet = Annotated[str, structs.Words("a network with prefix length")]
_Address = Annotated[str, structs.Words("an IP address", "address")]
_Gateway = Annotated[str, structs.Words("an IP address", "address, may be outside the subnet")]


class RangeKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of a range; null is the same as no key."""

    subnet: _Subnet | None = None
    """a single range; for several ranges use `ranges`"""
    range_start: _Address | None = None
    """the first address to allocate; default: the first after the network address"""
    range_end: _Address | None = None
    """the last address to allocate; default: the last of the subnet, for IPv4 the last before the broadcast
    address"""
    gateway: _Gateway | None = None
    """never allocated; default: the first after the network address"""


RANGE_KEYS = structs.keys_of(RangeKeys)


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


def shown(ranges: Sequence[Range]) -> str:
    """Return the ranges as text for a message."""
    return ", ".join(map(str, ranges))


def in_turn(ranges: Sequence[Range], last: Ip | None) -> Iterator[tuple[Range, Ip]]:
    """Yield every address once, in the order to try them: starting after `last`, to reuse addresses late."""
    at = next((index for index, each in enumerate(ranges) if last is not None and last in each), None)
    if at is None or last is None:
        for each in ranges:
            yield from ((each, ip) for ip in each.walk(each.start, each.end))
        return
    here = ranges[at]
    yield from ((here, ip) for ip in here.walk(last.value + 1, here.end))
    for each in (*ranges[at + 1 :], *ranges[:at]):
        yield from ((each, ip) for ip in each.walk(each.start, each.end))
    yield from ((here, ip) for ip in here.walk(here.start, last.value))


def read_sets(ipam: Mapping[str, Any], runtime: Mapping[str, Any]) -> list[RangeSet]:
    """Read the range sets of a configuration; one address is allocated from each.

    Their order, by which the last_reserved_ip files are numbered: runtimeConfig.ipRanges, the single range,
    `ranges`. Raises CniError(INVALID_CONFIG).
    """
    sets = [*_sets("runtimeConfig.ipRanges", runtime.get("ipRanges"))]
    if ipam.get("subnet") is not None:
        sets.append((_range("ipam", {key: ipam.get(key) for key in RANGE_KEYS}),))
    sets += _sets("ipam.ranges", ipam.get("ranges"))
    if not sets:
        raise CniError(Code.INVALID_CONFIG, 'expected key "ipam.subnet" or "ipam.ranges", got neither')
    _check_overlaps([each for ranges in sets for each in ranges])
    return sets


def _sets(key: str, value: object) -> Iterator[RangeSet]:
    if value is None:
        return
    if not isinstance(value, list):
        raise structs.wrong(key, "a list of lists of ranges", value)
    for number, listed in enumerate(value):
        where = f"{key}[{number}]"
        if not isinstance(listed, list) or not listed:
            raise structs.wrong(where, "a list of ranges", listed)
        ranges = tuple(
            _range(f"{where}[{index}]", conf.canonical(raw, RANGE_KEYS, f"{where}[{index}]"))
            for index, raw in enumerate(conf.objects(where, listed))
        )
        if len({each.subnet.ip.bits for each in ranges}) > 1:
            raise structs.wrong(where, "ranges of one family, IPv4 or IPv6", shown(ranges))
        yield ranges


def _range(where: str, raw: Mapping[str, Any]) -> Range:
    subnet = parse_prefix(raw.get("subnet"))
    if subnet is None:
        raise structs.wrong(f"{where}.subnet", "a network with prefix length", raw.get("subnet"))
    bits = subnet.ip.bits
    if subnet.ip.value != subnet.first:
        network = Prefix(Ip(bits, subnet.first), subnet.length)
        raise structs.wrong(f"{where}.subnet", f"the network's own address, {network}", raw["subnet"])
    if subnet.length > bits - 2:
        raise structs.wrong(
            f"{where}.subnet", f"a network of at most /{bits - 2}, to have addresses to give", raw["subnet"]
        )
    # Neither the network's own address (in IPv6 the subnet-router anycast address) nor IPv4's broadcast is usable.
    first, last = subnet.first + 1, subnet.last - (bits == 32)
    start = max(first, _inside(f"{where}.rangeStart", raw.get("rangeStart"), subnet, first))
    end = min(last, _inside(f"{where}.rangeEnd", raw.get("rangeEnd"), subnet, last))
    if start > end:
        raise structs.wrong(
            f"{where}.rangeEnd", f"an address from {Ip(bits, start)} to {Ip(bits, last)}", str(Ip(bits, end))
        )
    asked = raw.get("gateway")
    gateway = Ip(bits, first) if asked is None or asked == "" else conf.address(f"{where}.gateway", asked)
    return Range(subnet, start, end, gateway)


def _inside(key: str, value: object, subnet: Prefix, default: int) -> int:
    if value is None or value == "":
        return default
    ip = conf.address(key, value)
    if ip not in subnet:
        raise structs.wrong(key, f"an address of {subnet}", value)
    return ip.value


def _check_overlaps(ranges: Sequence[Range]) -> None:
    for index, one in enumerate(ranges):
        for other in ranges[index + 1 :]:
            if one.overlaps(other):
                raise CniError(Code.INVALID_CONFIG, f"ipam: range {one} overlaps with {other}")
