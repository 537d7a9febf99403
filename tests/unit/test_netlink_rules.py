"""Policy rules, and routes and addresses that are added again, compared with what pyroute2 reads and writes."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wirespeed.kernel.netlink import address, route
from wirespeed.kernel.netlink.codec import pack_message
from wirespeed.kernel.netlink.rule import Address, pack_rule, unpack_rule

TABLES = st.integers(1, 2**32 - 1)
_HEADER = 16  # bytes of struct nlmsghdr
_ONLINK, _LINKDOWN = 4, 16


def decoded(kind: type[Any], payload: bytes) -> Any:
    found = kind(data=pack_message(0, 0, 1, payload))
    found.decode()
    return found


def encoded(kind: type[Any], fields: dict[str, int], attributes: list[tuple[str, Any]]) -> bytes:
    """A message of the kernel, from its header on."""
    made = kind()
    for name, value in fields.items():
        made[name] = value
    made["attrs"] = attributes
    made.encode()
    return bytes(made.data[_HEADER:])


@given(source=st.ip_addresses(), table=TABLES)
def test_rule_is_read_by_pyroute2_as_it_was_meant(source: Address, table: int) -> None:
    seen = decoded(fibmsg, pack_rule(source, table))
    assert seen["family"] == (socket.AF_INET6 if source.version == 6 else socket.AF_INET)
    assert (seen["src_len"], seen["dst_len"], seen["action"], seen["flags"]) == (source.max_prefixlen, 0, 1, 0)
    assert ipaddress.ip_address(seen.get_attr("FRA_SRC")) == source
    assert seen["table"] == (table if table < 256 else 0)
    assert seen.get_attr("FRA_TABLE") == table


def test_rule_without_a_table_lets_the_kernel_choose_one() -> None:
    seen = decoded(fibmsg, pack_rule(ipaddress.ip_address("10.9.0.2"), 0))
    assert (seen["table"], seen.get_attr("FRA_TABLE")) == (0, None)


@given(source=st.ip_addresses(v=4), table=TABLES, priority=st.integers(0, 2**32 - 1))
def test_rule_of_pyroute2_is_read_and_can_be_deleted_as_listed(source: Address, table: int, priority: int) -> None:
    fields = {"family": socket.AF_INET, "src_len": 32, "table": table if table < 256 else 252, "action": 1}
    attributes = [("FRA_PRIORITY", priority), ("FRA_SRC", str(source)), ("FRA_TABLE", table)]
    message = encoded(fibmsg, fields, attributes)
    assert unpack_rule(message) == (table, source, message)


def test_rule_for_any_source_has_none() -> None:
    message = encoded(fibmsg, {"family": socket.AF_INET, "table": 254, "action": 1}, [("FRA_TABLE", 254)])
    assert unpack_rule(message) == (254, None, message)


LISTED = [
    ("RTA_TABLE", 254),
    ("RTA_DST", "10.77.0.0"),
    ("RTA_PREFSRC", "10.9.0.2"),
    ("RTA_GATEWAY", "10.9.0.1"),
    ("RTA_PRIORITY", 50),
    ("RTA_OIF", 7),
    ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400)]}),
]


def listed_route(*more: tuple[str, Any]) -> bytes:
    fields = {"family": socket.AF_INET, "dst_len": 16, "tos": 16, "table": 254, "proto": 2, "scope": 0, "type": 1}
    return encoded(rtmsg, fields | {"flags": _ONLINK | _LINKDOWN}, [*LISTED, *more])


@given(table=TABLES)
def test_copy_of_a_route_differs_only_in_its_table(table: int) -> None:
    seen = decoded(rtmsg, route.pack_copy(listed_route(), table))
    assert (seen["table"], seen.get_attr("RTA_TABLE")) == (table if table < 256 else 0, table)
    assert [seen[name] for name in ("family", "dst_len", "tos", "proto", "scope", "type")] == [2, 16, 16, 2, 0, 1]
    for name, value in LISTED[1:-1]:
        assert seen.get_attr(name) == value
    assert seen.get_attr("RTA_METRICS").get_attr("RTAX_MTU") == 1400


def test_copy_of_a_route_leaves_out_its_state() -> None:
    message = listed_route(("RTA_NH_ID", 5), ("RTA_PREF", 1))
    copied = route.route_attributes(route.pack_copy(message, 100))
    assert not {route.RTA_NH_ID, 20, 12} & set(copied)  # RTA_PREF, RTA_CACHEINFO
    assert decoded(rtmsg, route.pack_copy(message, 100))["flags"] == 0


def test_copy_of_an_onlink_route_may_stay_one() -> None:
    assert decoded(rtmsg, route.pack_copy(listed_route(), 100, keep_onlink=True))["flags"] == _ONLINK


def test_address_is_added_again_with_its_flags_and_lifetimes() -> None:
    fields = {"family": socket.AF_INET6, "prefixlen": 64, "flags": 0x82, "scope": 0, "index": 7}
    lifetimes = {"ifa_preferred": 100, "ifa_valid": 200, "cstamp": 1, "tstamp": 2}
    attributes = [
        ("IFA_ADDRESS", "fd00:9::2"),
        ("IFA_CACHEINFO", lifetimes),
        ("IFA_FLAGS", 0x282),
        ("IFA_PROTO", 3),
    ]
    message = encoded(ifaddrmsg, fields, attributes)
    seen = decoded(ifaddrmsg, address.pack_again(message))
    assert [seen[name] for name in fields] == list(fields.values())
    assert (seen.get_attr("IFA_ADDRESS"), seen.get_attr("IFA_FLAGS")) == ("fd00:9::2", 0x282)
    assert seen.get_attr("IFA_CACHEINFO") == lifetimes
    assert seen.get_attr("IFA_PROTO") is None


def test_address_of_the_link_is_not_global() -> None:
    scopes = {"fd00:9::2": 0, "fe80::1": 253}
    for text, scope in scopes.items():
        fields = {"family": socket.AF_INET6, "prefixlen": 64, "scope": scope, "index": 7}
        assert address.is_global(encoded(ifaddrmsg, fields, [("IFA_ADDRESS", text)])) == (scope == 0)
