"""Duplicate addresses on a PF: which claims conflict with another, and which do not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import Snapshot
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.vf import ETH_P_8021AD, ETH_P_8021Q, VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.sriov import address_conflicts
from wirespeed.plugins.sriov.conf import Wanted
from wirespeed.plugins.sriov.record import Port, SriovRecord
from wirespeed.plugins.sriov.representor import RepresentorState
from wirespeed.state.journal import ClaimStep, DeviceClaim, Journal

PF, OTHER_PF = "0000:18:00.0", "0000:18:00.1"
MAC, GUID = "02:00:00:00:00:aa", "02:00:00:00:00:00:00:aa"
HERE = "/proc/self/ns/net"
GONE = ("/run/netns/gone", Identity(1, 2, 3))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "state.db")
    yield made
    made.close()


def port(bridge: str, vlan: int | None = None) -> Port:
    return Port(bridge=bridge, vlan=vlan, before=RepresentorState(index=9, up=True, mtu=1500))


def alive() -> tuple[str, Identity]:
    with netns.opened(HERE) as ns:
        return HERE, ns.identity


def claim(
    number: int,
    container: str,
    *,
    wanted: dict[str, Any] | None = None,
    before: dict[str, Any] | None = None,
    mac: str | None = None,
    pf: str = PF,
    where: tuple[str, Identity] = GONE,
    **record: Any,
) -> DeviceClaim:
    path, identity = where
    return DeviceClaim(
        device=f"0000:18:02.{number}",
        plugin="sriov",
        container=container,
        ifname="net1",
        netns=path,
        identity=identity,
        record=SriovRecord(
            before=Snapshot(pf=pf, index=number, driver="d", settings=VfSettings(**(before or {}))),
            wanted=Wanted(settings=VfSettings(mac=mac, **(wanted or {})), mac=mac),
            **record,
        ).to_json(),
    )


def check(journal: Journal, new: DeviceClaim, *, held: dict[int, VfSettings] | None = None) -> None:
    index = new.record["before"]["index"]
    device = PciDevice(new.device)
    vf = Vf(
        device=device, pf=PciDevice(new.record["before"]["pf"]), index=index, driver="d", vf_settings=held or {}
    )
    address_conflicts.check(journal, vf, new)


def refusal(journal: Journal, new: DeviceClaim) -> str:
    with pytest.raises(Error) as refused:
        check(journal, new)
    assert refused.value.kind == Kind.TRY_AGAIN
    return refused.value.msg


@pytest.mark.parametrize("key", ["mac", "infinibandGUID"])
def test_address_of_a_living_pod_is_refused_by_its_name(journal: Journal, key: str) -> None:
    address = MAC if key == "mac" else GUID
    given: dict[str, Any] = {"mac": MAC} if key == "mac" else {"wanted": {"node_guid": GUID, "port_guid": GUID}}
    journal.claim(claim(0, "c0", where=alive(), pod="vms/vm1", **given))
    assert refusal(journal, claim(1, "c1", **given)).endswith(
        f'key "{key}": {address} belongs to device 0000:18:02.0, which is net1 of pod vms/vm1 (container c0); '
        "expected an address that no other pod has on this PF and VLAN"
    )
    journal.release(claim(0, "c0"))
    journal.claim(claim(0, "c0", where=alive(), **given))  # as written by an older release
    assert "which is net1 of container c0; " in refusal(journal, claim(1, "c1", **given))


def test_address_that_a_living_pods_vf_had_before_is_its_own(journal: Journal) -> None:
    journal.claim(claim(0, "c0", where=alive(), before={"mac": MAC}))
    assert "which is net1 of container c0" in refusal(journal, claim(1, "c1", mac=MAC))


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        ({"wanted": {"vlan": 5}}, {"wanted": {"vlan": 6}}, True),
        ({"wanted": {"vlan": 5}}, {}, True),
        ({"wanted": {"vlan": 0, "vlan_proto": ETH_P_8021Q}}, {}, False),
        (
            {"wanted": {"vlan": 5, "vlan_proto": ETH_P_8021Q}},
            {"before": {"vlan": 5, "vlan_proto": ETH_P_8021Q}},
            False,
        ),
        (
            {"wanted": {"vlan": 5, "vlan_proto": ETH_P_8021AD}},
            {"wanted": {"vlan": 5, "vlan_proto": ETH_P_8021Q}},
            True,
        ),
        ({"port": port("br-a", 5)}, {"port": port("br-a", 5)}, False),
        ({"port": port("br-a", 5)}, {"port": port("br-a", None)}, True),
        ({"port": port("br-a")}, {"port": port("br-b", None)}, True),
        ({"pf": OTHER_PF}, {}, True),
    ],
)
def test_one_address_may_be_in_two_networks_and_on_two_pfs(
    journal: Journal, first: dict[str, Any], second: dict[str, Any], free: bool
) -> None:
    journal.claim(claim(0, "c0", mac=MAC, where=alive(), **first))
    if free:
        check(journal, claim(1, "c1", mac=MAC, **second))
    else:
        refusal(journal, claim(1, "c1", mac=MAC, **second))


def test_one_pod_may_have_an_address_twice(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.claim(claim(0, "c0", mac=MAC, where=alive()))
    check(journal, claim(1, "c0", mac=MAC), held={0: VfSettings(mac=MAC), 1: VfSettings()})
    assert caplog.text == ""


def test_vf_that_is_given_back_has_no_address_any_more(journal: Journal) -> None:
    journal.claim(replace(claim(0, "c0", mac=MAC, where=alive()), step=ClaimStep.REMOVING))
    check(journal, claim(1, "c1", mac=MAC))


def test_pod_without_a_request_is_in_nobodys_way(journal: Journal) -> None:
    journal.claim(claim(0, "c0", mac=MAC, where=alive()))
    check(journal, claim(1, "c1"))


def test_dead_pods_are_found_whatever_their_vlan_and_the_living_are_not(journal: Journal) -> None:
    journal.claim(claim(0, "c0", mac=MAC, wanted={"vlan": 5}))
    journal.claim(claim(1, "c1", mac=MAC, where=alive()))
    journal.claim(claim(2, "c2", mac="02:00:00:00:00:bb"))
    journal.claim(claim(3, "c3", before={"mac": MAC}))  # it would get the MAC back
    journal.claim(claim(4, "c4", mac=MAC, pf=OTHER_PF))
    assert [each.container for each in address_conflicts.claims_of_gone_pods(journal, PF, MAC)] == ["c0"]


def test_address_that_the_pf_holds_for_a_vf_without_a_pod_is_warned_of(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    journal.claim(claim(3, "c3", before={"mac": MAC}))
    held = {n: VfSettings(mac=MAC, vlan=7 if n == 2 else 0) for n in range(4)}
    with caplog.at_level(logging.WARNING):
        check(journal, claim(1, "c1", mac=MAC), held=held)
    told = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert told == [f"its PF has {MAC} on VF {number} too, which no pod of this node owns" for number in (0, 3)]
