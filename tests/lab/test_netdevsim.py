"""What igb does not support, on netdevsim: a kernel driver that accepts all VF settings and has an eswitch.

Its PF is not a PCI device, and its VFs are no devices at all, so the tests use a fake sysfs. The interface, the
settings and devlink are the kernel's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.lab.conftest import Netdevsim, sh
from wirespeed.devices import settings, snapshot
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.restore import drift, restore
from wirespeed.devices.snapshot import Snapshot
from wirespeed.devices.vf import find
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import ETH_P_8021AD, LINK_STATES, VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.node import NodeConfig
from wirespeed.provision import eswitch, plan
from wirespeed.provision.facts import Pf
from wirespeed.provision.policy import Wanted

PF = "0000:18:00.0"
NOWHERE = ("/run/netns/none", Identity(0, 0, 0))
INDEX = 2  # of the VF under test; the PF has four
WANTED = VfSettings(
    mac="02:00:00:00:00:aa",
    vlan=100,
    vlan_qos=3,
    vlan_proto=ETH_P_8021AD,
    min_tx_rate=100,
    max_tx_rate=1000,
    spoofchk=True,
    trust=True,
    link_state=LINK_STATES["enable"],
)
SHOWN = {  # as shown by ip
    "address": "02:00:00:00:00:aa",
    "vlan_list": [{"vlan": 100, "qos": 3, "protocol": "802.1ad"}],
    "rate": {"max_tx": 1000, "min_tx": 100},
    "spoofchk": True,
    "trust": True,
    "link_state": "enable",
}


class Counting(Rtnl):
    """Counts the messages that change VF settings."""

    sent = 0

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        self.sent += 1
        super().set_vf(pf_index, vf, settings)


@dataclass(frozen=True)
class Card:
    """A netdevsim device with four VFs, as the PF of a fake sysfs."""

    device: Netdevsim
    vf: PciDevice
    host: Counting = field(default_factory=Counting)

    def shown(self) -> list[dict[str, Any]]:
        """What `ip` shows for each VF."""
        [link] = json.loads(sh("ip", "-d", "-j", "link", "show", self.device.port))
        found: list[dict[str, Any]] = link["vfinfo_list"]
        return found


@pytest.fixture
def card(netdevsim: Netdevsim, tmp_path: Path) -> Iterator[Card]:
    (netdevsim.path / "sriov_numvfs").write_text("4")
    sysfs = FakeSysfs(tmp_path)
    addresses = sysfs.pf(PF, netdevsim.port, vfs=4, vf_driver="vfio-pci")
    made = Card(netdevsim, PciDevice(addresses[INDEX], sysfs.root))
    with made.host:
        yield made


def put_back(card: Card, before: Snapshot) -> None:
    restore(card.vf, before, NOWHERE, timeout=0, rdma={})


def test_every_setting_goes_in_one_message_and_is_put_back(card: Card) -> None:
    everything = card.shown()
    vf = find(card.host, card.vf)
    before = snapshot.take(vf)
    settings.apply(card.host, vf, WANTED)
    assert card.host.sent == 1
    after = card.shown()
    assert {key: after[INDEX][key] for key in SHOWN} == SHOWN
    assert [after[other] for other in (0, 1, 3)] == [everything[other] for other in (0, 1, 3)]
    assert find(card.host, card.vf).settings == WANTED
    assert drift(card.host, card.vf, before, "vfio-pci", WANTED) == []
    put_back(card, before)
    assert card.shown() == everything


def test_what_was_set_by_others_meanwhile_is_told_and_put_back(card: Card) -> None:
    everything = card.shown()
    vf = find(card.host, card.vf)
    before = snapshot.take(vf)
    settings.apply(card.host, vf, WANTED)
    sh("ip", "link", "set", card.device.port, "vf", str(INDEX), "state", "disable")
    sh("ip", "link", "set", card.device.port, "vf", str(INDEX), "min_tx_rate", "50", "max_tx_rate", "1000")
    assert drift(card.host, card.vf, before, "vfio-pci", WANTED) == [
        "min_tx_rate is 50, expected 100",
        "link_state is 2, expected 1",
    ]
    put_back(card, before)
    assert card.shown() == everything


def test_only_what_is_asked_for_is_changed(card: Card) -> None:
    port, number = card.device.port, str(INDEX)
    sh("ip", "link", "set", port, "vf", number, "max_tx_rate", "2000", "min_tx_rate", "10")
    sh("ip", "link", "set", port, "vf", number, "vlan", "7", "qos", "5", "proto", "802.1ad")
    everything = card.shown()
    vf = find(card.host, card.vf)
    settings.apply(card.host, vf, VfSettings(min_tx_rate=20, vlan=8))
    # the other rate, the priority and the protocol are unchanged
    expected = replace(vf.settings, min_tx_rate=20, vlan=8)
    assert find(card.host, card.vf).settings == expected
    put_back(card, snapshot.take(vf))
    assert card.shown() == everything


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (replace(WANTED, min_tx_rate=2000), '"min_tx_rate": it and "max_tx_rate"'),  # above max_tx_rate
        (replace(WANTED, mac="03:00:00:00:00:aa"), '"mac": it'),  # multicast
        (replace(WANTED, vlan_qos=9), '"vlan": it and "vlanQoS", "vlanProto"'),
    ],
)
def test_what_is_refused_is_named_and_what_was_taken_is_put_back(card: Card, asked: VfSettings, named: str) -> None:
    everything = card.shown()
    vf = find(card.host, card.vf)
    with pytest.raises(Error, match=f"key {named} cannot be set: the driver of the PF refuses it") as told:
        settings.apply(card.host, vf, asked)
    assert told.value.kind == Kind.DEVICE
    put_back(card, snapshot.take(vf))
    assert card.shown() == everything


def test_rates_are_refused_in_switchdev_mode_and_the_rest_is_taken(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PciDevice, "BUS", "netdevsim")
    eswitch.set_mode(PciDevice(card.device.name), "switchdev")
    monkeypatch.undo()
    everything = card.shown()
    vf = find(card.host, card.vf)
    with pytest.raises(Error, match='key "min_tx_rate": it and "max_tx_rate" cannot be set: the driver'):
        settings.apply(card.host, vf, WANTED)
    put_back(card, snapshot.take(vf))
    assert card.shown() == everything
    settings.apply(card.host, vf, replace(WANTED, min_tx_rate=None, max_tx_rate=None))
    assert card.shown()[INDEX]["link_state"] == "enable"


# The eswitch


@pytest.fixture
def device(netdevsim: Netdevsim, monkeypatch: pytest.MonkeyPatch) -> PciDevice:
    """netdevsim's device, at the place where the code looks for a PCI device."""
    monkeypatch.setattr(PciDevice, "BUS", "netdevsim")
    return PciDevice(netdevsim.name)


def pf_of(device: PciDevice, mode: str = "legacy") -> Pf:
    return Pf(
        address=device.address,
        name=device.own_netdev,
        altnames=(),
        driver="netdevsim",
        vendor="",
        device="",
        model="",
        numa_node=-1,
        total_vfs=4,
        mtu=1500,
        up=True,
        link_type="ether",
        eswitch=mode,
    )


def devlink_mode(device: Netdevsim) -> str:
    shown = json.loads(sh("devlink", "-j", "dev", "eswitch", "show", device.handle))
    return str(shown["dev"][device.handle]["mode"])


def test_plan_changes_the_mode_of_the_eswitch(netdevsim: Netdevsim, device: PciDevice) -> None:
    (netdevsim.path / "sriov_numvfs").write_text("2")  # not in the plan, because they are no PCI devices
    assert eswitch.mode(device) == "legacy"
    made = plan.make({device.address: Wanted(num_vfs=0, eswitch="switchdev")}, [pf_of(device)])
    where = f"PF {device.own_netdev} ({device.address})"
    assert [change.what for change in made.changes] == [f"{where}: eswitch mode switchdev (now legacy)"]
    plan.carry_out(made, NodeConfig())
    assert devlink_mode(netdevsim) == eswitch.mode(device) == "switchdev"
    ports = json.loads(sh("devlink", "-j", "port", "show"))["port"].values()
    assert [port["vfnum"] for port in ports if port["flavour"] == "pcivf"] == [0, 1]
    back = plan.make({device.address: Wanted(num_vfs=0, eswitch="legacy")}, [pf_of(device, "switchdev")])
    plan.carry_out(back, NodeConfig())
    assert devlink_mode(netdevsim) == eswitch.mode(device) == "legacy"


def test_mode_is_taken_back_when_a_later_step_fails(netdevsim: Netdevsim, device: PciDevice) -> None:
    modes = []
    made = plan.make({device.address: Wanted(num_vfs=2, eswitch="switchdev")}, [pf_of(device)])
    failed = "sriov_numvfs: expected 2 VFs after it was written, got 0; the changes before it were undone"
    with pytest.raises(Error, match=failed):
        plan.carry_out(made, NodeConfig(), lambda _number, _step: modes.append(devlink_mode(netdevsim)))
    assert modes == ["legacy", "switchdev"]  # the mode before each of the two steps
    assert devlink_mode(netdevsim) == "legacy"
    assert (netdevsim.path / "sriov_numvfs").read_text().strip() == "0"
