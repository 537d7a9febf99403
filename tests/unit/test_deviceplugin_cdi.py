"""CDI: the specifications for the runtime, the containers' CDI devices, and which files are kept."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin import cdi
from wirespeed.deviceplugin.allocation import container_response
from wirespeed.deviceplugin.cdi import Specs
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.devices.inventory import NetDevice, Reader
from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig

PF, VF0, VF1 = "0000:18:00.0", "0000:19:00.0", "0000:19:00.1"
POOL = PoolConfig(resource="intel.com/dpdk")
KIND = "intel.com/net-pci-dpdk"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    made = FakeSysfs(tmp_path / "sys")
    made.pf(PF, "ens1f0", vfs=2)
    return made


@pytest.fixture
def where(tmp_path: Path, sysfs: FakeSysfs) -> NodeConfig:
    return NodeConfig(
        sysfs=str(sysfs.root), kubelet=str(tmp_path / "kubelet"), cdi_dir=str(tmp_path / "cdi"), cdi=True
    )


def checkpoint(where: NodeConfig, devices: dict[str, list[str]]) -> None:
    """Write a kubelet checkpoint in which a pod has these devices, by resource."""
    entries = [
        {"PodUID": "uid", "ContainerName": "a", "ResourceName": name, "DeviceIDs": {"0": ids}, "AllocResp": ""}
        for name, ids in devices.items()
    ]
    folder = Path(where.kubelet) / "device-plugins"
    folder.mkdir(parents=True, exist_ok=True)
    data = {"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 1}
    (folder / "kubelet_internal_checkpoint").write_text(json.dumps(data))


def devices(sysfs: FakeSysfs) -> dict[str, NetDevice]:
    return Reader(str(sysfs.root)).read().devices


def specs(where: NodeConfig, pool: PoolConfig = POOL) -> Specs:
    made = cdi.specs_of(pool, where)
    assert made is not None
    return made


def written(file: Path) -> Any:
    return json.loads(file.read_text())


def allocate(sysfs: FakeSysfs, by: Specs, *keys: str, pool: PoolConfig = POOL, **more: bool) -> Any:
    return container_response(pool, [devices(sysfs)[key] for key in keys], str(sysfs.root), by, **more)


def test_specification_has_the_nodes_of_each_device(sysfs: FakeSysfs, where: NodeConfig) -> None:
    sysfs.bind(VF0, "vfio-pci")
    sysfs.iommu_group(VF0, 43, "vfio-noiommu")
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    assert made.file.name == "wirespeed-dp-intel.com-net-pci-dpdk.json"
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o644
    assert written(made.file) == {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "containerEdits": {},
        "devices": [
            {
                "name": VF0,
                "containerEdits": {
                    "deviceNodes": [
                        {"path": "/dev/vfio/vfio", "hostPath": "/dev/vfio/vfio", "permissions": "rw"},
                        {"path": "/dev/vfio/43", "hostPath": "/dev/vfio/noiommu-43", "permissions": "rw"},
                    ]
                },
            },
            {"name": VF1, "containerEdits": {"env": [f"WIRESPEED_DEVICE_0000_19_00_1={VF1}"]}},
        ],
    }


def test_container_is_told_names_and_variables_and_no_nodes(sysfs: FakeSysfs, where: NodeConfig) -> None:
    sysfs.bind(VF0, "vfio-pci")
    told = allocate(sysfs, specs(where), VF1, VF0)
    assert [device.name for device in told.cdi_devices] == [f"{KIND}={VF1}", f"{KIND}={VF0}"]
    assert not told.devices
    assert not told.annotations
    assert told.envs == container_response(POOL, [devices(sysfs)[key] for key in (VF1, VF0)], str(sysfs.root)).envs


def test_names_go_into_an_annotation_where_the_runtime_reads_no_others(sysfs: FakeSysfs, where: NodeConfig) -> None:
    assert cdi.annotation(["example.com/net=0000:00:00.1"]) == {
        "cdi.k8s.io/example.com_net": "example.com/net=0000:00:00.1"
    }
    told = allocate(sysfs, specs(where), VF0, VF1, annotate=True)
    assert dict(told.annotations) == {"cdi.k8s.io/intel.com_net-pci-dpdk": f"{KIND}={VF0},{KIND}={VF1}"}
    assert not told.cdi_devices


def test_pool_of_kernel_vfs_is_given(sysfs: FakeSysfs, where: NodeConfig) -> None:
    made = specs(where)
    told = allocate(sysfs, made, VF0)
    [device] = written(made.file)["devices"]
    assert (device["name"], [each.name for each in told.cdi_devices]) == (VF0, [f"{KIND}={VF0}"])
    assert device["containerEdits"]["env"]


def test_two_pools_of_one_prefix_are_both_kept(sysfs: FakeSysfs, where: NodeConfig) -> None:
    told = []
    for name, key in (("one", VF0), ("two", VF1)):
        pool = PoolConfig(resource=f"intel.com/{name}")
        told.append(allocate(sysfs, specs(where, pool), key, pool=pool, annotate=True))
    assert len({*told[0].annotations, *told[1].annotations}) == 2
    assert len(list(Path(where.cdi_dir).iterdir())) == 2


def test_kinds_of_devices_have_classes_of_their_own() -> None:
    kinds = [
        cdi.kind(PoolConfig(resource="a.b/c", kind=kind)) for kind in ("netDevice", "accelerator", "auxNetDevice")
    ]
    assert kinds == ["a.b/net-pci-c", "a.b/net-accel-c", "a.b/net-sf-c"]


def test_pool_says_whether_its_devices_are_given_by_cdi(where: NodeConfig) -> None:
    assert cdi.specs_of(PoolConfig(resource="a.b/c", cdi=False), where) is None
    off = NodeConfig(kubelet=where.kubelet, cdi_dir=where.cdi_dir)
    assert cdi.specs_of(POOL, off) is None
    assert cdi.specs_of(PoolConfig(resource="a.b/c", cdi=True), off) is not None


def test_what_is_no_hardware_is_not_given_by_cdi(where: NodeConfig) -> None:
    folders = PoolConfig(resource="a.b/c", kind="vhostUser")
    assert cdi.specs_of(folders, where) is None
    cdi.remove_stale([folders], where)


def test_prefix_that_cdi_could_not_name_is_refused(where: NodeConfig) -> None:
    with pytest.raises(
        Error, match=r"expected a prefix that begins with a letter, as CDI requires, got '1st\.io'"
    ) as caught:
        cdi.specs_of(PoolConfig(resource="1st.io/net"), where)
    assert caught.value.kind == Kind.INVALID_CONFIG


def test_device_is_in_the_file_as_it_is_when_it_is_given(sysfs: FakeSysfs, where: NodeConfig) -> None:
    sysfs.bind(VF0, "igb_uio")
    sysfs.uio(VF0, 3)
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    (sysfs.path(VF0) / "uio/uio3").rename(sysfs.path(VF0) / "uio/uio9")
    allocate(sysfs, made, VF0)
    first, second = written(made.file)["devices"]
    assert first["containerEdits"]["deviceNodes"][0]["path"] == "/dev/uio9"
    assert second["name"] == VF1
    made.file.unlink()  # deleted by other software
    allocate(sysfs, made, VF0)
    assert made.file.exists()


def test_device_without_its_node_is_left_out_of_the_file(sysfs: FakeSysfs, where: NodeConfig) -> None:
    sysfs.bind(VF0, "igb_uio")
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    assert [device["name"] for device in written(made.file)["devices"]] == [VF1]


def test_file_is_written_when_the_devices_change_and_only_then(sysfs: FakeSysfs, where: NodeConfig) -> None:
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    before = made.file.stat().st_ino
    made.offer(POOL, devices(sysfs))
    assert made.file.stat().st_ino == before
    sysfs.bind(VF0, "vfio-pci")
    made.offer(POOL, devices(sysfs))
    assert "/dev/vfio/" in made.file.read_text()


def test_specification_without_a_device_is_no_file(sysfs: FakeSysfs, where: NodeConfig) -> None:
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    made.offer(POOL, {})
    assert list(Path(where.cdi_dir).iterdir()) == []


def test_device_that_a_container_has_stays_when_it_leaves_the_pool(sysfs: FakeSysfs, where: NodeConfig) -> None:
    checkpoint(where, {})
    made = specs(where)
    made.offer(POOL, devices(sysfs))
    allocate(sysfs, made, VF0)
    made.offer(POOL, {})
    assert [device["name"] for device in written(made.file)["devices"]] == [VF0]
    checkpoint(where, {POOL.resource: [VF0]})
    again = specs(where)  # after a restart
    again.offer(POOL, {})
    assert [device["name"] for device in written(made.file)["devices"]] == [VF0]
    checkpoint(where, {"intel.com/other": [VF0]})
    specs(where).offer(POOL, {})
    assert not made.file.exists()


def test_files_of_pools_that_are_no_more_are_removed_but_for_those_of_running_pods(
    sysfs: FakeSysfs, where: NodeConfig
) -> None:
    pools = {name: PoolConfig(resource=f"intel.com/{name}") for name in ("stays", "unused", "used")}
    files = {}
    for name, key in (("stays", VF1), ("unused", VF1), ("used", VF0)):
        made = specs(where, pools[name])
        allocate(sysfs, made, key, pool=pools[name])
        files[name] = made.file
    other = Path(where.cdi_dir) / "nvidia.yaml"
    other.write_text("")
    # without a checkpoint, it is not known whether the devices are in use
    cdi.remove_stale([pools["stays"]], where)
    assert all(file.exists() for file in files.values())
    checkpoint(where, {"intel.com/used": [VF0]})
    cdi.remove_stale([pools["stays"]], where)
    assert [name for name, file in files.items() if file.exists()] == ["stays", "used"]
    checkpoint(where, {})
    cdi.remove_stale([PoolConfig(resource="intel.com/stays", cdi=False)], where)
    assert list(Path(where.cdi_dir).iterdir()) == [other]


def test_file_that_cannot_be_written_is_told_with_the_pool(sysfs: FakeSysfs, where: NodeConfig) -> None:
    Path(where.cdi_dir).write_text("a file")
    with pytest.raises(Error, match=r"^resource intel\.com/dpdk: CDI specification .*\.json: ") as caught:
        specs(where).offer(POOL, devices(sysfs))
    assert caught.value.kind == Kind.IO


@pytest.mark.parametrize("text", ["", "[]", '{"devices": 7}', '{"devices": [{}]}'])
def test_file_that_is_none_of_ours_has_no_devices(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert cdi.read(tmp_path / "a.json") == {}
