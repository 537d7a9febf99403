"""The netlink codec compared with pyroute2's, in both directions."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests import openfiles
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.codec import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attribute,
    list_attributes,
    nested,
    pack_message,
    raise_for_error,
)
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import IFINFOMSG, IFLA_ADDRESS, IFLA_XDP, RTM_SETLINK, pack_link, unpack_link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import (
    IFLA_VF_INFO,
    IFLA_VF_TRUST,
    IFLA_VFINFO_LIST,
    VfSettings,
    pack_infos,
    pack_settings,
    unpack_settings,
)
from wirespeed.kernel.netlink.wait import wait_for

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
U32 = st.integers(0, 2**32 - 2)


def settings() -> st.SearchStrategy[VfSettings]:
    return st.builds(
        VfSettings,
        mac=MACS,
        vlan=st.integers(0, 4094),
        vlan_qos=st.integers(0, 7),
        vlan_proto=st.sampled_from([0x8100, 0x88A8]),
        min_tx_rate=U32,
        max_tx_rate=U32,
        spoofchk=st.booleans(),
        trust=st.booleans(),
        link_state=st.integers(0, 2),
    )


def decoded_by_pyroute2(message: bytes) -> Any:
    found = ifinfmsg(data=message)
    found.decode()
    return found


@given(vf=st.integers(0, 255), asked=settings())
def test_vf_settings_are_read_by_pyroute2_as_they_were_meant(vf: int, asked: VfSettings) -> None:
    info = b"".join(pack_settings(vf, asked))
    listed = nested(IFLA_VFINFO_LIST, attribute(1, info))
    body = pack_link(7) + listed
    message = pack_message(RTM_SETLINK, 0, 1, body)
    seen = decoded_by_pyroute2(message).get_attr("IFLA_VFINFO_LIST").get_attr("IFLA_VF_INFO")
    mac = seen.get_attr("IFLA_VF_MAC")
    assert (mac["vf"], mac["mac"][:17]) == (vf, asked.mac)
    vlan = seen.get_attr("IFLA_VF_VLAN_LIST").get_attr("IFLA_VF_VLAN_INFO")
    assert (vlan["vf"], vlan["vlan"], vlan["qos"]) == (vf, asked.vlan, asked.vlan_qos)
    assert vlan["proto"] == asked.vlan_proto
    rate = seen.get_attr("IFLA_VF_RATE")
    assert (rate["min_tx_rate"], rate["max_tx_rate"]) == (asked.min_tx_rate, asked.max_tx_rate)
    assert seen.get_attr("IFLA_VF_SPOOFCHK")["spoofchk"] == asked.spoofchk
    assert seen.get_attr("IFLA_VF_TRUST")["trust"] == asked.trust
    assert seen.get_attr("IFLA_VF_LINK_STATE")["link_state"] == asked.link_state


@given(settings())
def test_what_is_set_is_what_is_read_back(asked: VfSettings) -> None:
    assert unpack_settings(b"".join(pack_settings(3, asked))) == asked


def test_a_setting_that_the_driver_does_not_report_is_none() -> None:
    unsupported = attribute(IFLA_VF_TRUST, struct.pack("II", 0, 0xFFFFFFFF))
    assert unpack_settings(unsupported).trust is None


GUIDS = st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex(":"))


@given(vf=st.integers(0, 255), node=GUIDS, port=GUIDS)
def test_guids_are_written_as_pyroute2_writes_them_each_in_an_info_of_its_own(
    vf: int, node: str, port: str
) -> None:
    infos = pack_infos(vf, VfSettings(mac="02:00:00:00:00:01", trust=True, node_guid=node, port_guid=port))
    assert [[kind for kind, _ in list_attributes(info)] for info in infos] == [[1, 9], [10], [11]]
    for info, kind, guid in ((infos[1], "node", node), (infos[2], "port", port)):
        theirs = getattr(ifinfmsg.vflist.vfinfo, f"vf_ib_{kind}_guid")()
        theirs["vf"], theirs[f"ib_{kind}_guid"] = vf, guid
        theirs.encode()
        # pyroute2 appends 20 bytes to struct ifla_vf_guid; the kernel only reads the struct.
        assert info[4:] == bytes(theirs.data)[4:20]


@given(vf=st.integers(0, 255), node=GUIDS, port=GUIDS)
def test_guids_are_read_back_as_they_were_set(vf: int, node: str, port: str) -> None:
    asked = VfSettings(node_guid=node, port_guid=port)
    assert unpack_settings(b"".join(pack_infos(vf, asked))) == asked


@pytest.mark.parametrize(("kind", "infiniband"), [(1, False), (32, True)])
def test_an_infiniband_interface_is_known_by_its_type(kind: int, infiniband: bool) -> None:
    address = attribute(IFLA_ADDRESS, bytes(range(20)))
    link = unpack_link(IFINFOMSG.pack(0, kind, 7, 0, 0) + address)
    assert (link.infiniband, link.mac) == (infiniband, bytes(range(20)).hex(":"))


def test_a_vf_that_the_driver_does_not_tell_of_does_not_shift_those_after_it() -> None:
    told = {number: VfSettings(mac=f"02:00:00:00:00:0{number}", vlan=number, trust=False) for number in (0, 1, 3)}
    infos = b"".join(vf_info(number, settings) for number, settings in told.items())
    link = unpack_link(IFINFOMSG.pack(0, 1, 7, 0, 0) + attribute(IFLA_VFINFO_LIST, infos))
    assert list(link.vfs) == [0, 1, 3]
    for number, settings in told.items():
        found = link.vf(number)
        assert (found.mac, found.vlan, found.trust) == (settings.mac, settings.vlan, False)
    with pytest.raises(Error, match="does not report the settings of VF 2 now") as untold:
        link.vf(2)
    assert untold.value.kind == Kind.TRY_AGAIN


def vf_info(number: int, settings: VfSettings) -> bytes:
    """An IFLA_VF_INFO as written by the kernel: MAC, broadcast address, VLAN in the old format, then the others."""
    mac, *others = pack_settings(number, settings)
    older = attribute(13, b"\xff" * 32) + attribute(2, struct.pack("III", number, settings.vlan or 0, 0))
    return attribute(IFLA_VF_INFO, mac + older + b"".join(others))


@pytest.mark.parametrize(
    ("attached", "modes"),
    [
        ({2: b"\0"}, ()),
        ({2: b"\1", 5: b"\7\0\0\0", 4: b"\7\0\0\0"}, ("native",)),
        ({6: b"\7\0\0\0", 2: b"\2", 4: b"\7\0\0\0"}, ("generic",)),
        ({5: b"\7\0\0\0", 7: b"\x08\0\0\0", 2: b"\4"}, ("native", "offloaded")),
    ],
)
def test_xdp_programs_are_known_by_their_modes(attached: dict[int, bytes], modes: tuple[str, ...]) -> None:
    programs = b"".join(attribute(kind, value) for kind, value in attached.items())
    link = unpack_link(IFINFOMSG.pack(0, 1, 7, 0, 0) + attribute(IFLA_XDP, programs))
    assert link.xdp == modes


def test_a_process_with_more_files_than_select_knows_waits_for_links() -> None:
    looked: list[int] = []

    def second(_: Rtnl) -> int | None:
        looked.append(len(looked))
        return looked[-1] or None

    with openfiles.many():
        assert wait_for(second, 30, every=0.001) == 1


def test_waiting_for_a_link_allocates_no_buffer_each_time() -> None:
    def peak() -> int:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        assert wait_for(lambda rtnl: rtnl.link("lo"), 1)
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak()  # the thread's first call
        assert peak() < 1 << 16
    finally:
        tracemalloc.stop()


def test_interface_that_is_gone_has_no_addresses() -> None:
    with Rtnl() as rtnl:
        assert rtnl.addresses(2**30) == []


def test_refused_dump_carries_the_kernels_own_words() -> None:
    words = attribute(1, b"ipv4: Invalid values in header\0")
    with pytest.raises(NetlinkError, match=r"Invalid argument \(ipv4: Invalid values in header\)"):
        raise_for_error(Message(NLMSG_DONE, 0x200, 1, struct.pack("i", -22) + words))


def test_nothing_to_set_is_no_message() -> None:
    assert list(pack_settings(0, VfSettings())) == []


def test_only_differing_settings_are_kept() -> None:
    current = VfSettings(mac="02:00:00:00:00:01", vlan=5, trust=False)
    assert VfSettings(vlan=5, trust=True).differing(current) == VfSettings(trust=True)


@pytest.mark.parametrize("flags", [0, 0x100, 0x300])
def test_a_refusal_carries_its_number(flags: int) -> None:
    request = pack_message(RTM_SETLINK, 0, 1, b"")
    with pytest.raises(NetlinkError) as refused:
        raise_for_error(Message(NLMSG_ERROR, flags, 1, struct.pack("i", -95) + request))
    assert refused.value.errno == 95
    assert refused.value.strerror == "Operation not supported"


def test_a_refusal_carries_the_kernels_own_words() -> None:
    request = pack_message(RTM_SETLINK, 0, 1, b"")
    words = attribute(1, b"mtu less than device minimum\0")
    with pytest.raises(NetlinkError, match=r"Invalid argument \(mtu less than device minimum\)"):
        raise_for_error(Message(NLMSG_ERROR, 0x300, 1, struct.pack("i", -22) + request + words))
