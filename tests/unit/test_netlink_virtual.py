"""Messages for virtual interfaces and ports of bridges, read by pyroute2."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from wirespeed.kernel.netlink import bridgeport, virtual
from wirespeed.kernel.netlink.codec import pack_message
from wirespeed.kernel.netlink.link import IFF_UP, RTM_NEWLINK, RTM_SETLINK


def decoded(kind: int, body: bytes) -> Any:
    found = ifinfmsg(data=pack_message(kind, 0, 1, body))
    found.decode()
    return found


@pytest.mark.parametrize(
    ("kind", "data", "attribute", "value"),
    [
        ("bridge", virtual.bridge_data(vlan_filtering=True), "IFLA_BR_VLAN_FILTERING", 1),
        *(
            ("macvlan", virtual.macvlan_data(mode), "IFLA_MACVLAN_MODE", mode)
            for mode in ("private", "vepa", "bridge", "passthru")
        ),
        ("ipvlan", virtual.ipvlan_data("l3s"), "IFLA_IPVLAN_MODE", virtual.IPVLAN_MODES["l3s"]),
        ("vlan", virtual.vlan_data(4094), "IFLA_VLAN_ID", 4094),
        ("vrf", virtual.vrf_data(70000), "IFLA_VRF_TABLE", 70000),
    ],
)
def test_new_interface_is_what_was_meant(kind: str, data: bytes, attribute: str, value: object) -> None:
    body = virtual.pack_virtual("net1", kind, data=data, lower=7, mtu=1400, mac="02:00:00:00:00:05", up=True)
    link = decoded(RTM_NEWLINK, body)
    assert link["flags"] == link["change"] == IFF_UP
    names = ("IFLA_IFNAME", "IFLA_LINK", "IFLA_MTU", "IFLA_ADDRESS")
    assert [link.get_attr(name) for name in names] == ["net1", 7, 1400, "02:00:00:00:00:05"]
    info = link.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == kind
    assert info.get_attr("IFLA_INFO_DATA").get_attr(attribute) == value


def test_what_is_not_asked_for_is_not_in_the_message() -> None:
    link = decoded(RTM_NEWLINK, virtual.pack_virtual("net1", "dummy"))
    assert {name for name, _ in link["attrs"]} == {"IFLA_IFNAME", "IFLA_LINKINFO"}
    assert [name for name, _ in link.get_attr("IFLA_LINKINFO")["attrs"]] == ["IFLA_INFO_KIND"]


def test_peer_of_a_veth() -> None:
    data = virtual.veth_data("veth1", mtu=1400, netns_fd=9, txqlen=0)
    link = decoded(RTM_NEWLINK, virtual.pack_virtual("net1", "veth", data=data, netns_fd=8))
    assert link.get_attr("IFLA_NET_NS_FD") == 8
    peer = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    names = ("IFLA_IFNAME", "IFLA_MTU", "IFLA_NET_NS_FD", "IFLA_TXQLEN")
    assert [peer.get_attr(name) for name in names] == ["veth1", 1400, 9, 0]


@pytest.mark.parametrize(("native", "flags"), [(True, 6), (False, 0)])
def test_vlan_of_a_port(native: bool, flags: int) -> None:
    link = decoded(RTM_SETLINK, bridgeport.pack_vlan(7, 4094, native=native))
    assert (link["family"], link["index"]) == (7, 7)
    listed = link.get_attr("IFLA_AF_SPEC")
    assert listed.get_attr("IFLA_BRIDGE_VLAN_INFO") == {"flags": flags, "vid": 4094}
    assert bridgeport.unpack_vlans(bridgeport.pack_vlan(7, 4094)) == (7, [4094])


def test_flags_of_a_port() -> None:
    link = decoded(RTM_SETLINK, bridgeport.pack_port(7, hairpin=True, isolated=False))
    flags = link.get_attr("IFLA_PROTINFO")
    assert (flags.get_attr("IFLA_BRPORT_MODE"), flags.get_attr("IFLA_BRPORT_ISOLATED")) == (1, 0)
