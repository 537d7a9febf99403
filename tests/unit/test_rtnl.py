"""The netlink codec compared with pyroute2's, in both directions."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests import openfiles
from wirespeed.cni.errors import CniError, Code
from wirespeed.host import rtnl
from wirespeed.host.rtnl import VfSettings

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
    info = b"".join(rtnl.vf_attributes(vf, asked))
    nested = rtnl._attribute(rtnl.IFLA_VFINFO_LIST | rtnl.NLA_F_NESTED, rtnl._attribute(1, info))
    body = rtnl._IFINFO.pack(0, 0, 7, 0, 0) + nested
    message = rtnl._HEADER.pack(rtnl._HEADER.size + len(body), rtnl.RTM_SETLINK, 0, 1, 0) + body
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
    assert rtnl._vf(b"".join(rtnl.vf_attributes(3, asked))) == asked


def test_a_setting_that_the_driver_does_not_report_is_none() -> None:
    unsupported = rtnl._attribute(rtnl.IFLA_VF_TRUST, struct.pack("II", 0, 0xFFFFFFFF))
    assert rtnl._vf(unsupported).trust is None


GUIDS = st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex(":"))


@given(vf=st.integers(0, 255), node=GUIDS, port=GUIDS)
def test_guids_are_written_as_pyroute2_writes_them_each_in_an_info_of_its_own(
    vf: int, node: str, port: str
) -> None:
    infos = rtnl.vf_infos(vf, VfSettings(mac="02:00:00:00:00:01", trust=True, node_guid=node, port_guid=port))
    assert [[kind for kind, _ in rtnl._attributes(info)] for info in infos] == [[1, 9], [10], [11]]
    for info, kind, guid in ((infos[1], "node", node), (infos[2], "port", port)):
        theirs = getattr(ifinfmsg.vflist.vfinfo, f"vf_ib_{kind}_guid")()
        theirs["vf"], theirs[f"ib_{kind}_guid"] = vf, guid
        theirs.encode()
        # pyroute2 appends 20 bytes to struct ifla_vf_guid; the kernel only reads the struct.
        assert info[4:] == bytes(theirs.data)[4:20]


@given(vf=st.integers(0, 255), node=GUIDS, port=GUIDS)
def test_guids_are_read_back_as_they_were_set(vf: int, node: str, port: str) -> None:
    asked = VfSettings(node_guid=node, port_guid=port)
    assert rtnl._vf(b"".join(rtnl.vf_infos(vf, asked))) == asked


@pytest.mark.parametrize(("kind", "infiniband"), [(1, False), (32, True)])
def test_an_infiniband_interface_is_known_by_its_type(kind: int, infiniband: bool) -> None:
    address = rtnl._attribute(rtnl.IFLA_ADDRESS, bytes(range(20)))
    link = rtnl._link(rtnl._IFINFO.pack(0, kind, 7, 0, 0) + address)
    assert (link.infiniband, link.mac) == (infiniband, bytes(range(20)).hex(":"))


def test_a_vf_that_the_driver_does_not_tell_of_does_not_shift_those_after_it() -> None:
    told = {number: VfSettings(mac=f"02:00:00:00:00:0{number}", vlan=number, trust=False) for number in (0, 1, 3)}
    infos = b"".join(vf_info(number, settings) for number, settings in told.items())
    link = rtnl._link(rtnl._IFINFO.pack(0, 1, 7, 0, 0) + rtnl._attribute(rtnl.IFLA_VFINFO_LIST, infos))
    assert list(link.vfs) == [0, 1, 3]
    for number, settings in told.items():
        found = link.vf(number)
        assert (found.mac, found.vlan, found.trust) == (settings.mac, settings.vlan, False)
    with pytest.raises(CniError, match="does not tell what it holds for VF 2") as untold:
        link.vf(2)
    assert untold.value.code == Code.TRY_AGAIN_LATER


def vf_info(number: int, settings: VfSettings) -> bytes:
    """An IFLA_VF_INFO as written by the kernel: MAC, broadcast address, VLAN in the old format, then the others."""
    mac, *others = rtnl.vf_attributes(number, settings)
    older = rtnl._attribute(13, b"\xff" * 32) + rtnl._attribute(
        2, struct.pack("III", number, settings.vlan or 0, 0)
    )
    return rtnl._attribute(rtnl.IFLA_VF_INFO, mac + older + b"".join(others))


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
    nested = b"".join(rtnl._attribute(kind, value) for kind, value in attached.items())
    link = rtnl._link(rtnl._IFINFO.pack(0, 1, 7, 0, 0) + rtnl._attribute(rtnl.IFLA_XDP, nested))
    assert link.xdp == modes


def test_a_process_with_more_files_than_select_knows_waits_for_links() -> None:
    looked: list[int] = []

    def second(_: rtnl.Rtnl) -> int | None:
        looked.append(len(looked))
        return looked[-1] or None

    with openfiles.many():
        assert rtnl.wait_for(second, 30, every=0.001) == 1


def test_nothing_to_set_is_no_message() -> None:
    assert list(rtnl.vf_attributes(0, VfSettings())) == []


def test_only_differing_settings_are_kept() -> None:
    current = VfSettings(mac="02:00:00:00:00:01", vlan=5, trust=False)
    assert VfSettings(vlan=5, trust=True).differing(current) == VfSettings(trust=True)


@pytest.mark.parametrize("flags", [0, 0x100, 0x300])
def test_a_refusal_carries_its_number(flags: int) -> None:
    request = rtnl._HEADER.pack(16, rtnl.RTM_SETLINK, 0, 1, 0)
    with pytest.raises(rtnl.NetlinkError) as refused:
        rtnl._raise_for(struct.pack("i", -95) + request, flags)
    assert refused.value.errno == 95
    assert refused.value.strerror == "Operation not supported"


def test_a_refusal_carries_the_kernels_own_words() -> None:
    request = rtnl._HEADER.pack(16, rtnl.RTM_SETLINK, 0, 1, 0)
    words = rtnl._attribute(1, b"mtu less than device minimum\0")
    with pytest.raises(rtnl.NetlinkError, match=r"Invalid argument \(mtu less than device minimum\)"):
        rtnl._raise_for(struct.pack("i", -22) + request + words, 0x300)
