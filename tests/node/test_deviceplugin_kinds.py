"""Accelerators, scalable functions and CDI devices, as the kubelet requests them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.calling import until
from tests.node.conftest import PATIENCE
from tests.node.deviceplugins import Place, Recorder, allocate
from wirespeed.errors import Error

PF, VFS, CARD, SF = "0000:18:00.0", ["0000:19:00.0", "0000:19:00.1"], "0000:3b:00.0", "mlx5_core.sf.4"
NET = {"resourceName": "net", "selectors": {"pfNames": ["ens1f0"]}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "kubelet/device-plugins").mkdir(parents=True)
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf(PF, "ens1f0", vfs=2)
    kubelet = Recorder(tmp_path / "kubelet")
    kubelet.start()
    try:
        yield Place(tmp_path, sysfs, kubelet)
    finally:
        kubelet.stop()


def specification(place: Place, kind: str) -> dict[str, Any]:
    """The CDI edits of each device, as the runtime reads them."""
    file = place.folder / "cdi" / f"wirespeed-dp-{kind.replace('/', '-')}.json"
    return {device["name"]: device["containerEdits"] for device in json.loads(file.read_text())["devices"]}


def test_accelerators_and_scalable_functions_are_given(place: Place) -> None:
    place.sysfs.device(CARD, driver="vfio-pci", pci_class="0x120000", device="0d5d", iommu_group=7)
    place.sysfs.device("0000:5e:00.0", driver="mlx5_core", name="ens3f0")
    place.sysfs.function("0000:5e:00.0", SF, 88)
    fec = {"resourceName": "fec", "deviceType": "accelerator", "selectors": {"devices": ["0d5d"]}}
    sf = {"resourceName": "sf", "deviceType": "auxNetDevice", "selectors": {"auxTypes": ["sf"]}}
    with place.running(fec, sf, {"resourceName": "rest"}):
        place.kubelet.wait_ids("intel.com/fec", [CARD])
        place.kubelet.wait_ids("intel.com/sf", [SF])
        place.kubelet.wait_ids("intel.com/rest", VFS)
        card = place.kubelet.allocate("default", "pod", "app", "intel.com/fec", 1)
        function = place.kubelet.allocate("default", "pod", "app", "intel.com/sf", 1)
    assert card.envs["PCIDEVICE_INTEL_COM_FEC"] == CARD
    assert [node.host_path for node in card.devices] == ["/dev/vfio/vfio", "/dev/vfio/7"]
    assert function.envs["PCIDEVICE_INTEL_COM_SF"] == SF
    assert not place.devinfo.exists()  # device-info files have no type for scalable functions


@pytest.mark.parametrize(
    "pool",
    [
        {"selectors": {"drivers": ["iavf"]}},
        {"deviceType": "accelerator"},
        {"deviceType": "auxNetDevice", "selectors": {"auxTypes": ["sf"]}},
        {"deviceType": "vhostUser", "count": 1},
        {"cdi": True, "bind": True},
    ],
    ids=["netDevice", "accelerator", "auxNetDevice", "vhostUser", "bind"],
)
def test_unknown_device_is_refused_in_pools_of_every_kind(place: Place, pool: dict[str, Any]) -> None:
    cdi = str(place.folder / "cdi")
    with place.running({"resourceName": "one", **pool}, cdi_dir=cdi, state=str(place.folder / "run/state.db")):
        place.kubelet.wait_until(lambda: place.kubelet.is_listed("intel.com/one"), PATIENCE, "the pool")
        with pytest.raises(grpc.RpcError) as caught:
            allocate(place, "unknown")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "resource intel.com/one: device unknown: not known in this pool"


def test_device_that_comes_is_in_the_specification_before_the_kubelet_knows_it(place: Place) -> None:
    with place.running(NET, cdi=True, cdi_dir=str(place.folder / "cdi")) as plugin:
        place.kubelet.wait_ids("intel.com/net", VFS)
        assert sorted(specification(place, "intel.com/net-pci-net")) == VFS
        more = place.sysfs.set_vfs(PF, 4)
        plugin.request_read()
        place.kubelet.wait_ids("intel.com/net", more)
        assert sorted(specification(place, "intel.com/net-pci-net")) == more


@pytest.mark.parametrize("folder_too", [False, True])
def test_specification_that_somebody_removes_is_there_again(place: Place, folder_too: bool) -> None:
    folder = place.folder / "cdi"
    file = folder / "wirespeed-dp-intel.com-net-pci-net.json"
    with place.running(NET, cdi=True, cdi_dir=str(folder)):
        place.kubelet.wait_ids("intel.com/net", VFS)
        before = specification(place, "intel.com/net-pci-net")
        file.unlink()
        if folder_too:
            folder.rmdir()
        until(file.exists, "there again")
        assert specification(place, "intel.com/net-pci-net") == before


def test_devices_are_given_by_cdi_but_in_a_pool_that_says_otherwise(place: Place) -> None:
    place.sysfs.bind(VFS[0], "vfio-pci")
    place.sysfs.bind(VFS[1], "igb_uio")
    place.sysfs.uio(VFS[1], 3)
    pools = (
        {"resourceName": "vfio", "selectors": {"drivers": ["vfio-pci"]}},
        {"resourceName": "uio", "selectors": {"drivers": ["igb_uio"]}, "cdi": False},
    )
    with place.running(*pools, cdi=True, cdi_dir=str(place.folder / "cdi")):
        place.kubelet.wait_ids("intel.com/vfio", [VFS[0]])
        place.kubelet.wait_ids("intel.com/uio", [VFS[1]])
        by_cdi = place.kubelet.allocate("default", "pod", "app", "intel.com/vfio", 1)
        by_nodes = place.kubelet.allocate("default", "pod", "app", "intel.com/uio", 1)
    assert [device.name for device in by_cdi.cdi_devices] == [f"intel.com/net-pci-vfio={VFS[0]}"]
    assert not by_cdi.devices
    [container, _] = specification(place, "intel.com/net-pci-vfio")[VFS[0]]["deviceNodes"]
    assert container == {"path": "/dev/vfio/vfio", "hostPath": "/dev/vfio/vfio", "permissions": "rw"}
    assert not by_nodes.cdi_devices
    assert [node.host_path for node in by_nodes.devices] == ["/dev/uio3"]


def test_folder_of_specifications_that_cannot_be_made_is_told_when_a_device_is_asked_for(place: Place) -> None:
    (place.folder / "cdi").write_text("a file")
    with place.running(NET, cdi=True, cdi_dir=str(place.folder / "cdi")):
        place.kubelet.wait_ids("intel.com/net", VFS)
        with pytest.raises(Error, match=r"CDI specification .*: (Not a directory|File exists)"):
            place.kubelet.allocate("default", "pod", "app", "intel.com/net", 1)
        (place.folder / "cdi").unlink()
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/net", 1)
    assert len(answer.cdi_devices) == 1


def test_rdma_is_given_from_the_first_allocation_on(place: Place) -> None:
    place.sysfs.rdma(place.sysfs.path(VFS[1]), "mlx5_2", number=2)
    with place.running({"resourceName": "rdma", "selectors": {"isRdma": True}}) as plugin:
        place.kubelet.wait_ids("intel.com/rdma", [VFS[1]])
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/rdma", 1)
        place.sysfs.rdma(place.sysfs.path(VFS[0]), "mlx5_1", number=1)
        plugin.request_read()
        place.kubelet.wait_until(lambda: place.kubelet.ids("intel.com/rdma") == VFS, PATIENCE, "both")
    assert "/dev/infiniband/uverbs2" in [node.host_path for node in answer.devices]
    [file] = place.devinfo.iterdir()
    assert json.loads(file.read_text())["pci"]["rdma-device"] == "mlx5_2"
