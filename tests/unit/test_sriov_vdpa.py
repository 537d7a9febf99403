"""vdpa devices of VFs and scalable functions in a fake sysfs: which one is used, and its attributes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec import structs

from tests.fakesysfs import FakeSysfs
from wirespeed.cni.request import Request
from wirespeed.devices import functions, snapshot
from wirespeed.devices.functions import Function
from wirespeed.devices.restore import drift, restore
from wirespeed.devices.snapshot import Snapshot
from wirespeed.devices.vf import find
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.sriov import sriov
from wirespeed.plugins.sriov.conf import Wanted
from wirespeed.plugins.sriov.record import SriovRecord, netdev_parent
from wirespeed.plugins.sriov.sriov import device_info
from wirespeed.state.journal import DeviceClaim

PF, VF = "0000:18:00.0", "0000:19:00.0"
PF_LINK = Link(index=7, name="eth4", mac="02:00:00:00:00:01", mtu=9000, flags=1, vfs={0: VfSettings(trust=False)})
OWN = Link(index=8, name="eth4v0", mac="02:00:00:00:00:02", mtu=1500, flags=0, parent=VF)
VIRTIO = Link(index=9, name="eth9", mac="02:00:00:00:00:03", mtu=1500, flags=0, parent="virtio3")
NOWHERE = ("/run/netns/none", Identity(0, 0, 0))


class Host(Rtnl):
    """A host with the interfaces of the PF, the VF and a virtio device."""

    def __init__(self) -> None:
        """It opens no socket."""

    def close(self) -> None:
        """It has no socket to close."""

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        return next((link for link in (PF_LINK, OWN, VIRTIO) if name in (link.name, link.index)), None)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    made = FakeSysfs(tmp_path)
    made.pf(PF, "eth4", vfs=1, driver="mlx5_core", vf_driver="mlx5_core")
    return made


def vf_of(sysfs: FakeSysfs) -> Function:
    return functions.of_id(VF, sysfs.root)


def test_a_vf_on_virtio_vdpa_is_given_by_the_interface_of_its_virtio_device(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", "virtio_vdpa", number=3, interface="eth9")
    vf = find(Host(), vf_of(sysfs))
    assert (vf.link, vf.netdev_device.address, vf.is_in_user_space) == (VIRTIO, "virtio3", False)
    assert vf.settings == VfSettings(trust=False)
    assert device_info(vf) == {
        "type": "vdpa",
        "version": "1.1.0",
        "vdpa": {"parent-device": "vdpa1", "driver": "virtio", "pci-address": VF, "pf-pci-address": PF},
    }


def test_in_its_pod_an_interface_is_known_by_the_device_that_it_belongs_to(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", "virtio_vdpa", number=3, interface="eth9")
    before = snapshot.take(find(Host(), vf_of(sysfs)))

    def parent(before: Snapshot) -> str:
        record = SriovRecord(before=before, wanted=Wanted(settings=VfSettings())).to_json()
        where = {"container": "c", "ifname": "net1", "netns": "/n", "identity": NOWHERE[1]}
        return netdev_parent(DeviceClaim(device=VF, plugin="sriov", record=record, **where))  # type: ignore[arg-type]

    assert parent(before) == "virtio3"
    assert parent(structs.replace(before, link=None)) == VF


def test_a_vf_on_vhost_vdpa_is_given_by_its_node(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", "vhost_vdpa", number=2)
    vf = find(Host(), vf_of(sysfs))
    assert (vf.link, vf.is_in_user_space) == (None, True)
    told = device_info(vf)
    assert told is not None
    assert told["vdpa"] == {
        "parent-device": "vdpa1",
        "driver": "vhost",
        "path": "/dev/vhost-vdpa-2",
        "pci-address": VF,
        "pf-pci-address": PF,
    }


def test_a_scalable_functions_vdpa_device_is_told_without_an_address_of_its_own(sysfs: FakeSysfs) -> None:
    name = sysfs.function(PF, "mlx5_core.sf.4", 88, interface="eth4s88")
    sysfs.vdpa(sysfs.path(PF) / name, "vdpa1", "vhost_vdpa")
    told = device_info(find(Host(), functions.of_id(name, sysfs.root)))
    assert told is not None
    assert told["vdpa"] == {
        "parent-device": "vdpa1",
        "driver": "vhost",
        "path": "/dev/vhost-vdpa-0",
        "pf-pci-address": PF,
    }


def test_a_mac_that_nobody_would_hold_is_refused_for_a_scalable_function_on_vhost_vdpa(
    sysfs: FakeSysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sysfs.function(PF, "mlx5_core.sf.4", 88, interface="eth4s88")
    sysfs.vdpa(sysfs.path(PF) / name, "vdpa1", "vhost_vdpa")
    monkeypatch.setattr(sriov, "Rtnl", Host)
    node = Node(NodeConfig(state=str(tmp_path / "run/state.db"), sysfs=str(sysfs.root), leases=str(tmp_path / "l")))
    config = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": name}
    plain = Request(command="ADD", container_id="c", netns="/proc/self/ns/net", ifname="net1", config=config)
    asked = plain.derive(config=config | {"mac": "02:00:00:00:00:0a"})
    with pytest.raises(
        Error, match='key "mac": it has no netdev; remove the key: its vdpa device keeps the MAC'
    ) as refused:
        node.plugin("sriov").add(asked)
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert node.journal.claims() == []
    assert "mac" not in node.plugin("sriov").add(plain)["interfaces"][0]
    node.close()


def test_a_vdpa_device_without_a_driver_does_not_count_nor_does_anothers(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1")
    sysfs.vdpa(sysfs.path(PF), "vdpa0", "vhost_vdpa")
    vf = find(Host(), vf_of(sysfs))
    assert (vf.link, vf.netdev_device.address, vf.vdpa) == (OWN, VF, None)


def test_one_on_vhost_vdpa_without_a_node_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", "vhost_vdpa")
    (sysfs.path(VF) / "vdpa1/vhost-vdpa-0").rmdir()
    with pytest.raises(Error, match="its vdpa device vdpa1 has no vhost-vdpa node") as refused:
        find(Host(), vf_of(sysfs))
    assert refused.value.kind == Kind.DEVICE


def test_a_driver_that_would_cost_the_vf_its_vdpa_device_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", "vhost_vdpa")
    with pytest.raises(Error, match='key "driver": another driver would remove its vdpa device vdpa1') as refused:
        find(Host(), vf_of(sysfs), rebinding=True)
    assert refused.value.kind == Kind.INVALID_CONFIG


@pytest.mark.parametrize("driver", ["virtio_vdpa", "vhost_vdpa"])
def test_what_became_of_a_vdpa_device_is_found(
    sysfs: FakeSysfs, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysfs.vdpa(sysfs.path(VF), "vdpa1", driver, number=3, interface="eth9")
    before = snapshot.take(find(Host(), vf_of(sysfs)))
    assert drift(Host(), vf_of(sysfs), before, "mlx5_core", VfSettings()) == []
    shutil.rmtree(sysfs.path(VF) / "vdpa1")
    (sysfs.root / "bus/vdpa/devices/vdpa1").unlink()
    assert drift(Host(), vf_of(sysfs), before, "mlx5_core", VfSettings()) == [
        f"its vdpa device vdpa1 is no longer on {driver}"
    ]
    monkeypatch.setattr("wirespeed.devices.restore.Rtnl", Host)
    restore(vf_of(sysfs), before, NOWHERE, timeout=0, rdma={})  # with no interface to wait for
