"""VFs attached by sriov-cni: their claims in the journal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sriovfiles
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.link import IFF_PROMISC, IFF_UP, Link
from wirespeed.kernel.netlink.vf import ETH_P_8021AD, ETH_P_8021Q, VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.state.journal import DeviceClaim, Journal
from wirespeed.takeover import sriov_cni

VF = "0000:03:10.0"
CID = "0f" * 32
IN_POD = Link(
    index=7,
    name="net1",
    mac="02:00:00:00:00:01",
    mtu=9000,
    flags=IFF_UP | IFF_PROMISC,
    txqlen=500,
    parent=VF,
    altnames=("enp3s0f0v0alt",),
)
NOW = Vf(
    device=PciDevice(VF, Path("/sys")),
    pf=PciDevice("0000:03:00.0", Path("/sys")),
    index=3,
    driver="igbvf",
    settings=VfSettings(
        mac="02:00:00:00:00:01",
        vlan=100,
        vlan_qos=2,
        vlan_proto=ETH_P_8021AD,
        min_tx_rate=0,
        max_tx_rate=500,
        spoofchk=False,
        trust=True,
        link_state=1,
    ),
    link=IN_POD,
)


def claimed(value: dict[str, Any], now: Vf = NOW) -> DeviceClaim:
    return sriov_cni.claim(
        CID,
        "net1",
        sriov_cni.read_saved(json.dumps(value).encode()),
        current=now,
        netns="/run/netns/pod",
        identity=Identity(4, 77, 12),
        devinfo=Path("/var/run/k8s.cni.cncf.io/devinfo"),
    )


def test_vf_is_claimed_for_its_container_interface_and_namespace() -> None:
    claim = claimed(sriovfiles.kept(VF.upper()))
    assert (claim.device, claim.plugin, claim.container, claim.ifname) == (VF, "sriov", CID, "net1")
    assert (claim.netns, claim.identity, claim.step) == ("/run/netns/pod", Identity(4, 77, 12), "attached")
    assert claim.record["network"] == "fast"


def test_what_it_was_before_is_what_sriov_cni_noted() -> None:
    before = claimed(sriovfiles.kept(VF, original={"Trust": True, "MaxTxRate": 100, "Vlan": 9})).record["before"]
    assert before["pf"] == "0000:03:00.0"
    assert before["index"] == 3
    assert before["settings"] == {
        "mac": "00:00:00:00:00:00",
        "vlan": 9,
        "vlan_qos": 0,
        "vlan_proto": ETH_P_8021Q,
        "min_tx_rate": 0,
        "max_tx_rate": 100,
        "spoofchk": True,
        "trust": True,
        "link_state": 0,
        "node_guid": None,
        "port_guid": None,
    }
    link = before["link"]
    assert (link["name"], link["mac"], link["mtu"]) == ("enp3s0f0v0", "b6:11:22:33:44:55", 1500)
    assert (link["up"], link["promisc"], link["allmulti"]) == (False, False, False)


def test_what_sriov_cni_does_not_note_stays_as_it_is() -> None:
    link = claimed(sriovfiles.kept(VF)).record["before"]["link"]
    assert (link["altnames"], link["txqlen"]) == (["enp3s0f0v0alt"], 500)


def test_setting_that_the_driver_does_not_report_is_none_to_restore() -> None:
    silent = replace(NOW, settings=replace(NOW.settings, link_state=None, max_tx_rate=None, min_tx_rate=None))
    settings = claimed(sriovfiles.kept(VF), silent).record["before"]["settings"]
    assert (settings["link_state"], settings["max_tx_rate"], settings["spoofchk"]) == (None, None, True)


def test_vf_on_vfio_has_no_netdev_to_bring_back() -> None:
    bare = replace(NOW, driver="vfio-pci", link=None)
    noted = {"HostIFName": "", "EffectiveMAC": "", "MTU": 0}
    assert claimed(sriovfiles.kept(VF, original=noted), bare).record["before"]["link"] is None


def test_vf_that_is_on_its_way_home_is_known_by_what_was_noted() -> None:
    link = claimed(sriovfiles.kept(VF), replace(NOW, link=None)).record["before"]["link"]
    assert (link["name"], link["mac"], link["mtu"]) == ("enp3s0f0v0", "b6:11:22:33:44:55", 1500)


def test_vf_of_which_neither_is_known_is_refused() -> None:
    value = sriovfiles.kept(VF, original={"EffectiveMAC": ""})
    with pytest.raises(Error, match=f"device {VF}: sriov-cni has not recorded its MAC and MTU") as refused:
        claimed(value, replace(NOW, link=None))
    assert refused.value.kind == Kind.DEVICE


def test_check_knows_what_was_asked_for() -> None:
    value = sriovfiles.kept(
        VF, vlan=100, vlanQoS=2, vlanProto="802.1ad", spoofchk="off", trust="on", MAC="02:00:00:00:00:01"
    )
    wanted = claimed(value).record["wanted"]
    assert wanted["mac"] == "02:00:00:00:00:01"
    assert wanted["mtu"] is None  # sriov-cni has no such key; it records the VF's earlier MTU there
    assert {key: on for key, on in wanted["settings"].items() if on is not None} == {
        "mac": "02:00:00:00:00:01",
        "vlan": 100,
        "vlan_qos": 2,
        "vlan_proto": ETH_P_8021AD,
        "spoofchk": False,
        "trust": True,
    }


def test_runtimes_mac_goes_before_the_configurations() -> None:
    value = sriovfiles.kept(VF, MAC="02:00:00:00:00:01", runtimeConfig={"mac": "02:00:00:00:00:02"})
    assert claimed(value).record["wanted"]["mac"] == "02:00:00:00:00:02"


def test_values_that_are_refused_here_are_not_held_against_the_vf(caplog: pytest.LogCaptureFixture) -> None:
    wanted = claimed(sriovfiles.kept(VF, trust="yes")).record["wanted"]
    assert set(wanted["settings"].values()) == {None}
    assert "CHECK does not compare it with its configuration" in caplog.text


def test_claim_goes_into_the_journal_and_comes_back_as_it_was(tmp_path: Path) -> None:
    journal, claim = Journal(tmp_path / "state.db"), claimed(sriovfiles.kept(VF))
    journal.claim(claim)
    assert journal.device_of(CID, "net1") == claim
    journal.close()


# Files


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (f"{CID}-net1", (CID, "net1")),
        (f"{CID}-data-net", (CID, "data-net")),
        ("cni-1234-net1", ("cni-1234", "net1")),
        ("vf_lock", None),
        ("-net1", None),
        (f"{CID}-", None),
        (f"{CID}-an-interface-of-more-than-15", None),
    ],
)
def test_files_name_tells_whose_it_is(name: str, owner: tuple[str, str] | None) -> None:
    assert sriov_cni.owner(name) == owner


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"deviceID": VF, "name": "fast"},
        sriovfiles.kept("../../etc"),
        sriovfiles.kept(VF, name="../fast"),
        {**sriovfiles.kept(VF), "OrigVfState": {"Vlan": "9"}},
    ],
)
def test_file_that_is_none_of_sriov_cnis_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(Error):
        sriov_cni.read_saved(json.dumps(value).encode())


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_whatever_is_in_a_file_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(Error):
        sriov_cni.read_saved(data)
