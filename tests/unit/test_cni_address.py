"""Addresses as integers, compared with Python's ipaddress module."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wirespeed.cni.address import Ip, Prefix, parse_ip, parse_prefix

addresses = st.ip_addresses()


def unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@given(addresses)
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("::192.0.2.1"))
@example(ipaddress.ip_address("2001:db8:0:1:1:1:1:1"))
@example(ipaddress.ip_address("2001:0:0:1::1"))
def test_address_is_read_and_written_as_rfc_5952_has_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    ip = parse_ip(str(address))
    assert ip is not None
    plain = unmapped(address)
    assert (ip.bits, ip.value, str(ip)) == (plain.max_prefixlen, int(plain), str(plain))
    assert parse_ip(str(ip)) == ip


@given(addresses, st.data())
def test_prefix_knows_its_network(address: ipaddress.IPv4Address, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, unmapped(address).max_prefixlen))
    network = ipaddress.ip_network((unmapped(address), length), strict=False)
    prefix = parse_prefix(f"{unmapped(address)}/{length}")
    assert prefix is not None
    assert (prefix.first, prefix.last) == (int(network[0]), int(network[-1]))
    assert prefix.ip in prefix
    assert Ip(prefix.ip.bits, prefix.last + 1) not in prefix
    assert parse_prefix(str(prefix)) == prefix


def test_mapped_address_counts_its_prefix_within_ipv6() -> None:
    assert parse_prefix("::ffff:10.0.0.1/120") == Prefix(Ip(32, 0x0A000001), 24)
    assert parse_prefix("::ffff:10.0.0.1/24") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "010.0.0.1",
        "10.0.0.256",
        "10.0.0.1 ",
        "fe80::1%eth0",
        ":::",
        "1\0",
        "10.0.0.1/8",
        "ü",
        None,
        7,
    ],
)
def test_what_is_no_address(text: object) -> None:
    assert parse_ip(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/+8", "10.0.0.1/8 ", "10.0.0.1/٣",
        "10.0.0.1/255.0.0.0", "fd00::/129", "/8", "10.0.0.1/0000000000000008", None, 7,
    ],
)  # fmt: skip
def test_what_is_no_prefix(text: object) -> None:
    assert parse_prefix(text) is None


@given(st.text(max_size=40))
def test_nothing_is_raised_for_any_text(text: str) -> None:
    parse_ip(text)
    parse_prefix(text)
