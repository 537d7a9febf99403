"""InfiniBand VFs with a fake PF driver that takes GUIDs, and a fake VF driver that reads them when it binds."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.cni.chain import Chain, load_network
from wirespeed.cni.request import Request
from wirespeed.devices import drivers, rdma, settings
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind
from wirespeed.ipam import addressing
from wirespeed.kernel import ethtool
from wirespeed.kernel.netlink.address import Interface
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings, pack_infos, unpack_settings
from wirespeed.kernel.netns import Identity
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.sriov import sriov
from wirespeed.plugins.sriov.sriov import Sriov

PF = "0000:18:00.0"
GUID = "02:00:00:00:00:00:00:aa"
NEVER_SET, UNSET = ":".join(["00"] * 8), ":".join(["ff"] * 8)
OWN = "f4:52:14:03:00:01:02:03"  # made up by the VF's driver if the PF has no GUID for it
QUEUE_PAIR = "00:00:11:29:fe:80:00:00:00:00:00:00"
NOWHERE = ("/run/netns/none", Identity(0, 0, 0))


class Card(Rtnl):
    """A card with an InfiniBand PF, "ib0", and one VF, whose driver creates the netdev when it binds."""

    def __init__(self, sysfs: FakeSysfs, *, tells_guids: bool = True, kind: int = 32) -> None:
        (self.address,) = sysfs.pf(PF, "ib0", vfs=1, driver="mlx5_core", vf_driver="mlx5_core", link_type=kind)
        self.sysfs, self.tells_guids, self.infiniband = sysfs, tells_guids, kind == 32
        self.settings = VfSettings(mac=settings.NO_MAC, vlan=0, node_guid=NEVER_SET, port_guid=NEVER_SET)
        self.name, self.mtu, self.up, self.read, self.done = "ib0v0", 2044, False, OWN, list[str]()
        self.instants = 0  # kills the process at this instant (0: never)

    @property
    def device(self) -> PciDevice:
        return PciDevice(self.address, self.sysfs.root)

    def addresses(self, index: int) -> list[Interface]:
        return []

    def close(self) -> None:
        """It has no socket to close."""

    def instant(self) -> None:
        self.instants -= 1
        if not self.instants:
            raise Killed

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        if name in {"ib0", 7}:
            told = self.settings if self.tells_guids else replace(self.settings, node_guid=None, port_guid=None)
            return Link(index=7, name="ib0", mac="", mtu=4092, flags=1, infiniband=self.infiniband, vfs={0: told})
        if name in {self.name, 8}:
            address = f"{QUEUE_PAIR}:{self.read}" if self.infiniband else "02:00:00:00:00:01"
            return Link(
                index=8,
                name=self.name,
                mac=address,
                permanent_mac=address,
                mtu=self.mtu,
                flags=int(self.up),
                parent=self.address,
                infiniband=self.infiniband,
            )
        return None

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        assert (pf_index, vf) == (7, 0)
        for info in pack_infos(vf, settings):
            part = dict(unpack_settings(info).items())
            assert NEVER_SET not in part.values()
            self.instant()
            self.done += [f"{key} {value}" for key, value in part.items()]
            self.settings = replace(self.settings, **part)
            self.instant()

    def set_link(self, index: int, **changes: Any) -> None:
        assert index == 8
        assert changes.get("mac") is None
        self.instant()
        if name := changes.get("name"):
            self.sysfs.drop_interface(self.name)
            self.sysfs.interface(self.address, name, link_type=32)
        self.name, self.mtu = changes.get("name") or self.name, changes.get("mtu") or self.mtu
        self.up = changes.get("up", self.up)
        self.instant()

    def reprobe(self, device: PciDevice, driver: str) -> None:
        """Rebind the VF's driver, which creates another netdev with the GUID that the PF has now."""
        assert (device.address, driver) == (self.address, "mlx5_core")
        if device.driver:
            self.sysfs.drop_interface(self.name)
            self.sysfs.bind(self.address, "")
            self.name = ""
            self.instant()
        self.sysfs.bind(self.address, driver)
        self.name, self.mtu, self.up = "ib7", 2044, False
        self.read = OWN if self.settings.port_guid in {NEVER_SET, UNSET} else str(self.settings.port_guid)
        self.sysfs.interface(self.address, self.name, link_type=32)
        self.done.append("taken again")
        self.instant()


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "sys")


@pytest.fixture
def node(tmp_path: Path, sysfs: FakeSysfs) -> Node:
    leases, devinfo = str(tmp_path / "leases"), str(tmp_path / "devinfo")
    return Node(NodeConfig(state=str(tmp_path / "state.db"), sysfs=str(sysfs.root), leases=leases, devinfo=devinfo))


@pytest.fixture
def insert(sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card]:
    """Add a card to the node. Its "pods" are in the host's namespace, because it has no other."""

    def put(**kind: Any) -> Card:
        card = Card(sysfs, **kind)
        monkeypatch.setattr("wirespeed.devices.restore.Rtnl", lambda **_: card)
        monkeypatch.setattr(sriov, "Rtnl", lambda **_: card)
        monkeypatch.setattr(drivers, "reprobe", card.reprobe)
        return card

    return put


def request(card: Card, **keys: Any) -> Request:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": card.address}
    config |= {"runtimeConfig": {"infinibandGUID": GUID}} | keys
    return Request(command="ADD", container_id="c1", netns="/proc/self/ns/net", ifname="net1", config=config)


@pytest.mark.parametrize(("tells_guids", "after"), [(True, UNSET), (False, OWN)])
def test_a_vf_has_its_guids_in_the_pod_and_none_of_them_after(
    node: Node, insert: Callable[..., Card], tells_guids: bool, after: str
) -> None:
    card, plugin = insert(tells_guids=tells_guids), Sriov(node)
    added = plugin.add(request(card))
    assert added["interfaces"][0]["mac"] == f"{QUEUE_PAIR}:{GUID}"
    assert card.done[:3] == [f"node_guid {GUID}", f"port_guid {GUID}", "taken again"]
    assert (card.name, card.up) == ("net1", True)
    plugin.check(request(card))
    card.done.clear()
    plugin.delete(request(card))
    given_back = [f"node_guid {after}", f"port_guid {after}"]
    assert card.done[:3] == [*given_back, "taken again"]
    assert card.done[3:] in ([], given_back)  # if the PF does not report GUIDs, they are set twice
    assert (card.name, card.mtu, card.up, card.read) == ("ib0v0", 2044, False, OWN)
    assert node.journal.claims() == []


def test_guids_that_the_vf_had_are_its_guids_again(node: Node, insert: Callable[..., Card]) -> None:
    card, plugin = insert(), Sriov(node)
    card.settings = before = replace(card.settings, node_guid=OWN, port_guid=OWN)
    plugin.add(request(card))
    plugin.delete(request(card))
    assert card.settings == before


def test_check_finds_other_guids_on_either_side(node: Node, insert: Callable[..., Card]) -> None:
    card, plugin = insert(), Sriov(node)
    plugin.add(request(card))
    card.settings = replace(card.settings, node_guid=OWN)
    with pytest.raises(Error, match=f"infinibandGUID is {OWN}, expected {GUID}"):
        plugin.check(request(card))
    card.settings, card.read = replace(card.settings, node_guid=GUID), OWN
    with pytest.raises(Error, match=f"infinibandGUID of net1 is not {GUID}, its address is .*{OWN}"):
        plugin.check(request(card))


class Killed(BaseException):
    """The process was killed: nothing that would follow is done."""


def test_killed_at_every_instant_then_del(
    node: Node, insert: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sriov, "_undo_on_failure", lambda *_: nullcontext())
    number, killed = 0, True
    card = insert()
    while killed:
        number += 1
        card.instants = number
        try:
            Sriov(node).add(request(card))
            killed = False
        except Killed:
            killed = True
        card.instants = 0
        Sriov(node).delete(request(card))
        assert (card.name, card.mtu, card.up, card.read) == ("ib0v0", 2044, False, OWN), number
        assert card.settings.port_guid in {NEVER_SET, UNSET}, number
        assert card.device.driver == "mlx5_core", number
        assert node.journal.claims() == []
    assert number > 6


def failing(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_an_error_of_the_system_keeps_no_step_of_a_del_from_being_done(
    node: Node, insert: Callable[..., Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, plugin = addressed(insert(), monkeypatch), Sriov(node)
    plugin.add(asked)
    assert list(tmp_path.rglob("10.1.0.2"))
    with monkeypatch.context() as broken:
        broken.setattr(ethtool, "queues", failing)
        with pytest.raises(Error, match="Input/output error") as failed:
            plugin.delete(asked)
        assert failed.value.kind == Kind.IO
    assert not list(tmp_path.rglob("10.1.0.2"))
    assert len(node.journal.claims()) == 1
    plugin.delete(asked)
    assert node.journal.claims() == []


def test_an_add_that_cannot_be_undone_is_told_by_what_it_failed_by_and_keeps_no_address(
    node: Node, insert: Callable[..., Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = addressed(insert(), monkeypatch)

    def refuse(*_: object) -> None:
        monkeypatch.setattr(ethtool, "queues", failing)
        raise Error(Kind.ADDRESS, "no such route")

    monkeypatch.setattr(addressing, "configure", refuse)
    with pytest.raises(Error, match="no such route"):
        Sriov(node).add(asked)
    assert not list(tmp_path.rglob("10.1.0.2"))
    assert len(node.journal.claims()) == 1


def addressed(card: Card, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A request with the address 10.1.0.2, which is not configured on the interface."""
    monkeypatch.setattr(addressing, "configure", lambda *_: None)
    return request(card, ipam={"type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2"})


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        (1, {}, 'key "infinibandGUID": its PF is not InfiniBand; expected none, or "mac"'),
        (32, {"mac": "02:00:00:00:00:01"}, 'key "mac": its PF is InfiniBand; expected none, or "infinibandGUID"'),
    ],
)
def test_what_the_kind_of_vf_has_not_is_refused_with_nothing_changed(
    node: Node, insert: Callable[..., Card], kind: int, keys: dict[str, Any], told: str
) -> None:
    card = insert(kind=kind)
    with pytest.raises(Error) as refused:
        Sriov(node).add(request(card, **keys))
    assert told in refused.value.msg
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert card.done == []
    assert node.journal.claims() == []


def test_a_vf_whose_pf_cannot_be_seen_gets_no_guid_and_stays_as_it_is(
    node: Node, insert: Callable[..., Card], sysfs: FakeSysfs
) -> None:
    card = insert()
    sysfs.drop_interface("ib0")
    with pytest.raises(Error, match=f'key "infinibandGUID": it cannot be set: PF {PF} .* has no network interface'):
        Sriov(node).add(request(card))
    assert card.done == []
    assert node.journal.claims() == []


def test_a_vf_that_gets_no_guid_is_not_taken_again_and_keeps_its_address(
    node: Node, insert: Callable[..., Card]
) -> None:
    card, plugin = insert(), Sriov(node)
    asked = request(card, runtimeConfig={}, mtu=1500)
    plugin.add(asked)
    plugin.delete(asked)
    assert card.done == []
    assert (card.name, card.mtu, card.up, card.read) == ("ib0v0", 2044, False, OWN)


@pytest.mark.parametrize("tells_guids", [True, False])
def test_a_vf_on_vfio_is_given_guids_and_not_taken_again(
    node: Node, insert: Callable[..., Card], sysfs: FakeSysfs, tells_guids: bool
) -> None:
    card, plugin = insert(tells_guids=tells_guids), Sriov(node)
    sysfs.drop_interface(card.name)
    sysfs.bind(card.address, "vfio-pci")
    plugin.add(request(card))
    plugin.check(request(card))
    plugin.delete(request(card))
    assert card.done == [f"{key}_guid {guid}" for guid in (GUID, UNSET) for key in ("node", "port")]


def test_rdma_devices_go_into_the_pod_before_the_netdev_and_as_the_driver_made_them_last(
    node: Node, insert: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = insert()
    monkeypatch.setattr(rdma, "devices", lambda vf: {"mlx5_1": card.done.count("taken again")})
    monkeypatch.setattr(rdma, "move", lambda vf, devices, ns: card.done.append(f"moved {devices} {card.name}"))
    Sriov(node).add(request(card, rdmaIsolation=True))
    assert card.done[2:] == ["taken again", "moved {'mlx5_1': 1} ib7"]
    assert [claim.record["rdma"] for claim in node.journal.claims()] == [{"mlx5_1": 1}]


def test_the_capability_is_that_of_vfs_of_infiniband(node: Node, insert: Callable[..., Card]) -> None:
    card = insert()
    sysfs, plugin = card.sysfs, Sriov(node)
    (ethernet,) = sysfs.pf("0000:3b:00.0", "eth4", vfs=1)
    assert "infinibandGUID" in plugin.capabilities({"deviceID": card.address})
    assert "infinibandGUID" not in plugin.capabilities({"deviceID": ethernet})
    assert "infinibandGUID" not in plugin.capabilities({})


def test_a_network_that_says_nothing_of_it_passes_the_pods_guid_to_its_vf(
    node: Node, insert: Callable[..., Card]
) -> None:
    card = insert()
    asked = request(card)
    network = load_network({key: value for key, value in asked.config.items() if key != "runtimeConfig"})
    network = replace(network, runtime_config={"infinibandGUID": GUID})
    Chain({"wirespeed-sriov": Sriov(node)}).add(network, asked)
    assert card.read == GUID
