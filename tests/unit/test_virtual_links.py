"""New interfaces as they are packed, compared with pyroute2."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from wirespeed.kernel.netlink.codec import list_attributes, pack_message
from wirespeed.kernel.netlink.link import IFF_UP, RTM_NEWLINK
from wirespeed.kernel.netlink.virtual import ipvlan_data, macvlan_data, pack_virtual, vlan_data


def decoded_by_pyroute2(kind: str, data: bytes, **options: Any) -> Any:
    found = ifinfmsg(data=pack_message(RTM_NEWLINK, 0, 1, pack_virtual("net1", kind, data=data, **options)))
    found.decode()
    return found


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("macvlan", macvlan_data("private"), {"IFLA_MACVLAN_MODE": "private"}),
        ("macvlan", macvlan_data("vepa"), {"IFLA_MACVLAN_MODE": "vepa"}),
        ("macvlan", macvlan_data("bridge"), {"IFLA_MACVLAN_MODE": "bridge"}),
        ("macvlan", macvlan_data("passthru"), {"IFLA_MACVLAN_MODE": "passthru"}),
        ("ipvlan", ipvlan_data("l2"), {"IFLA_IPVLAN_MODE": 0}),
        ("ipvlan", ipvlan_data("l3"), {"IFLA_IPVLAN_MODE": 1}),
        ("ipvlan", ipvlan_data("l3s"), {"IFLA_IPVLAN_MODE": 2}),
        ("vlan", vlan_data(4094), {"IFLA_VLAN_ID": 4094}),
    ],
    ids=str,
)
def test_children_are_read_by_pyroute2_as_they_were_meant(kind: str, data: bytes, expected: dict[str, Any]) -> None:
    seen = decoded_by_pyroute2(kind, data, lower=5, mtu=1400, mac="02:00:00:00:00:01", netns_fd=9, up=True)
    names = ("IFLA_IFNAME", "IFLA_LINK", "IFLA_MTU", "IFLA_ADDRESS", "IFLA_NET_NS_FD")
    assert [seen.get_attr(name) for name in names] == ["net1", 5, 1400, "02:00:00:00:00:01", 9]
    assert (seen["flags"], seen["change"]) == (IFF_UP, IFF_UP)
    info = seen.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == kind
    assert {name: info.get_attr("IFLA_INFO_DATA").get_attr(name) for name in expected} == expected


def test_what_pyroute2_does_not_know_is_as_the_kernel_declares_it() -> None:
    """IFLA_MACVLAN_BC_QUEUE_LEN, only if it is asked for, and IFLA_IPVLAN_FLAGS (linux/if_link.h)."""
    asked = dict(list_attributes(macvlan_data("bridge", broadcast_queue=500)))
    assert (sorted(asked), asked[7]) == ([1, 7], struct.pack("I", 500))
    assert [kind for kind, _ in list_attributes(macvlan_data("bridge"))] == [1]
    assert dict(list_attributes(ipvlan_data("l3")))[2] == struct.pack("H", 0)
