"""What a container gets with its devices, one provider after the other, with a fake sysfs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin.allocation import container_response
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.info import device_info
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import Reader
from wirespeed.errors import Error, Kind

PF, VF0, VF1 = "0000:18:00.0", "0000:19:00.0", "0000:19:00.1"
SF = "mlx5_core.sf.4"
RDMA, VHOST_NET = Selectors(is_rdma=True), Selectors(need_vhost_net=True)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    made = FakeSysfs(tmp_path / "sys")
    made.pf(PF, "ens1f0", vfs=2)
    return made


def told(
    sysfs: FakeSysfs, *taking: Selectors, keys: tuple[str, ...] = (VF0,), **more: Any
) -> tuple[Any, list[str]]:
    """The `_INFO` entry of the last device, and the device nodes of all ("container=host" if they differ)."""
    pool = PoolConfig(resource="a.b/c", selectors=taking, **more)
    found = Reader(str(sysfs.root)).read().devices
    answered = container_response(pool, [found[key] for key in keys], str(sysfs.root))
    info = json.loads(answered.envs["PCIDEVICE_A_B_C_INFO"])[keys[-1]]
    nodes = [(node.container_path, node.host_path) for node in answered.devices]
    assert {node.permissions for node in answered.devices} <= {"rw"}
    assert info.pop("generic") == {"deviceID": keys[-1]}
    return info, [path if path == host else f"{path}={host}" for path, host in nodes]


# vfio


def test_device_on_vfio_has_the_container_and_its_group(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "vfio-pci")
    sysfs.iommu_group(VF0, 1)
    assert told(sysfs) == (
        {"vfio": {"dev-mount": "/dev/vfio/1", "mount": "/dev/vfio/vfio"}},
        ["/dev/vfio/vfio", "/dev/vfio/1"],
    )


def test_group_without_an_iommu_has_the_usual_path_in_the_container(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "vfio-pci")
    sysfs.iommu_group(VF0, 43, "vfio-noiommu")
    sysfs.vfio_device(VF0, 0)
    assert told(sysfs)[1] == ["/dev/vfio/vfio", "/dev/vfio/43=/dev/vfio/noiommu-43"]


def test_group_that_changes_is_told_as_it_is_now(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "vfio-pci")
    for group in (42, 43):
        sysfs.iommu_group(VF0, group)
        assert told(sysfs)[1] == ["/dev/vfio/vfio", f"/dev/vfio/{group}"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_device_on_vfio_without_a_group_is_refused(sysfs: FakeSysfs, as_folder: bool) -> None:
    sysfs.bind(VF0, "vfio-pci")
    (sysfs.path(VF0) / "iommu_group").unlink()
    if as_folder:
        (sysfs.path(VF0) / "iommu_group").mkdir()
    with pytest.raises(Error, match="on vfio-pci without an IOMMU group"):
        told(sysfs)


def test_devices_own_node_and_iommufd_are_given_where_the_kernel_has_them(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "vfio-pci")
    sysfs.iommu_group(VF0, 42)
    sysfs.vfio_device(VF0, 3)
    part = {"vfio": {"dev-mount": "/dev/vfio/42", "mount": "/dev/vfio/vfio"}}
    nodes = ["/dev/vfio/vfio", "/dev/vfio/42"]
    assert told(sysfs) == (part, [*nodes, "/dev/vfio/devices/vfio3", "/dev/iommu"])
    # the directory also exists in kernels built without these nodes
    (sysfs.path(VF0) / "vfio-dev/vfio3/dev").unlink()
    assert told(sysfs) == (part, nodes)


def test_vendors_own_vfio_driver_is_as_vfio_pci(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "mlx5_vfio_pci")
    sysfs.iommu_group(VF0, 42)
    sysfs.vfio_device(VF0, 3)
    assert told(sysfs)[1][:2] == ["/dev/vfio/vfio", "/dev/vfio/42"]


# uio


@pytest.mark.parametrize("driver", ["uio", "igb_uio", "uio_pci_generic"])
def test_device_on_uio_has_its_node(sysfs: FakeSysfs, driver: str) -> None:
    sysfs.bind(VF0, driver)
    sysfs.uio(VF0, 7)
    assert told(sysfs) == ({"uio": {"mount": "/dev/uio7"}}, ["/dev/uio7"])


def test_uio_that_is_no_folder_is_as_no_node(sysfs: FakeSysfs) -> None:
    sysfs.bind(VF0, "igb_uio")
    (sysfs.path(VF0) / "uio").write_text("")
    with pytest.raises(Error, match="on igb_uio without a uio device"):
        told(sysfs)


# RDMA


def test_rdma_device_is_given_with_all_its_nodes(sysfs: FakeSysfs) -> None:
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2)
    sysfs.rdma(sysfs.path(VF1), "mlx5_3", number=3)
    assert told(sysfs, RDMA) == (
        {
            "rdma": {
                "issm": "/dev/infiniband/issm2",
                "rdma_cm": "/dev/infiniband/rdma_cm",
                "rdma_dev": "mlx5_2",
                "umad": "/dev/infiniband/umad2",
                "uverbs": "/dev/infiniband/uverbs2",
            }
        },
        [f"/dev/infiniband/{name}" for name in ("ucm2", "issm2", "umad2", "uverbs2", "rdma_cm")],
    )


def test_devices_that_share_a_node_have_it_once(sysfs: FakeSysfs) -> None:
    for number, address in enumerate((VF0, VF1)):
        sysfs.rdma(sysfs.path(address), f"mlx5_{number}", number=number)
    _, nodes = told(sysfs, RDMA, keys=(VF1, VF0))
    assert nodes.count("/dev/infiniband/rdma_cm") == 1
    assert {"/dev/infiniband/uverbs0", "/dev/infiniband/uverbs1"} <= set(nodes)


def test_rdma_is_given_with_what_the_selector_that_wants_it_took(sysfs: FakeSysfs) -> None:
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2)
    first = Selectors(pci_addresses=frozenset({VF0}))
    assert told(sysfs, first, RDMA) == ({}, [])
    assert told(sysfs, RDMA, first)[1] != []


def test_rdma_device_that_is_elsewhere_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.rdma(sysfs.path(VF0), "mlx5_2", number=2)
    reader = Reader(str(sysfs.root))
    device = reader.read().devices[VF0]
    (sysfs.path(VF0) / "infiniband").rename(sysfs.root / "in a pod")
    with pytest.raises(Error, match=f"{VF0}: its RDMA device is not in this namespace") as caught:
        container_response(PoolConfig(resource="a.b/c", selectors=(RDMA,)), [device], str(sysfs.root))
    assert caught.value.kind == Kind.DEVICE


def test_scalable_function_has_its_own_rdma_and_what_is_said_of_its_pf(sysfs: FakeSysfs) -> None:
    sysfs.set_vfs(PF, 0)
    sysfs.function(PF, SF, 88)
    sysfs.rdma(sysfs.path(PF) / SF, "mlx5_4", number=4)
    info = {"*": {"a": "all", "b": "all"}, PF: {"b": "its PF's"}}
    parts, nodes = told(sysfs, RDMA, keys=(SF,), kind="auxNetDevice", additional_info=info)
    assert parts["rdma"]["rdma_dev"] == "mlx5_4"
    assert parts["extra"] == {"a": "all", "b": "its PF's"}
    assert "/dev/infiniband/uverbs4" in nodes


# vdpa


def test_vdpa_device_of_type_vhost_has_its_node_at_the_first_allocation(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF0), "vdpa1", "vhost_vdpa", number=1)
    assert told(sysfs, Selectors(vdpa_type="vhost")) == (
        {"vdpa": {"mount": "/dev/vhost-vdpa-1"}},
        ["/dev/vhost-vdpa-1"],
    )


def test_vdpa_device_of_type_virtio_has_no_node(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF0), "vdpa1", "virtio_vdpa")
    assert told(sysfs, Selectors(vdpa_type="virtio")) == ({}, [])


@pytest.mark.parametrize(("driver", "fits"), [("", ""), ("vhost_vdpa", "vhost"), ("virtio_vdpa", "virtio")])
def test_vdpa_type_takes_devices_with_such_a_vdpa_device(sysfs: FakeSysfs, driver: str, fits: str) -> None:
    if driver:
        sysfs.vdpa(sysfs.path(VF0), "vdpa1", driver)
    device = Reader(str(sysfs.root)).read().devices[VF0]
    for kind in ("vhost", "virtio"):
        assert (Selectors(vdpa_type=kind).mismatch(device) == "") == (kind == fits)


def test_vdpa_device_without_its_node_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF0), "vdpa1", "vhost_vdpa")
    (sysfs.path(VF0) / "vdpa1/vhost-vdpa-0").rmdir()
    with pytest.raises(Error, match="vdpa device vdpa1 without a vhost-vdpa node"):
        told(sysfs, Selectors(vdpa_type="vhost"))


# vhost-net


def test_vhost_net_is_given_where_the_node_has_it(sysfs: FakeSysfs, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert told(sysfs, VHOST_NET) == ({}, [])
    assert "needVhostNet: there is no /dev/vhost-net" in caplog.text
    dev = sysfs.root.parent / "dev"
    dev.mkdir()
    (dev / "vhost-net").write_text("")
    assert told(sysfs, VHOST_NET) == (
        {"vhost": {"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"}},
        ["/dev/vhost-net", "/dev/net/tun"],
    )
    other = Selectors(pci_addresses=frozenset({VF1}), need_vhost_net=True)
    assert told(sysfs, other, Selectors()) == ({}, [])


# Device-info files


def info(sysfs: FakeSysfs, *taking: Selectors, key: str = VF0, **more: Any) -> Any:
    pool = PoolConfig(resource="a.b/c", selectors=taking, **more)
    return device_info(pool, Reader(str(sysfs.root)).read().devices[key], str(sysfs.root))


def test_info_of_a_vf_names_its_pf(sysfs: FakeSysfs) -> None:
    assert info(sysfs) == {
        "type": "pci",
        "version": "1.1.0",
        "pci": {"pci-address": VF0, "pf-pci-address": PF},
    }


def test_info_names_rdma_devices_for_those_that_are_given_with_them(sysfs: FakeSysfs) -> None:
    sysfs.rdma(sysfs.path(VF0), "mlx5_0", number=0)
    sysfs.rdma(sysfs.path(VF0), "mlx5_1", number=1)
    assert info(sysfs, RDMA)["pci"]["rdma-device"] == "mlx5_0,mlx5_1"
    assert "rdma-device" not in info(sysfs)["pci"]


def test_info_of_a_vdpa_device(sysfs: FakeSysfs) -> None:
    sysfs.vdpa(sysfs.path(VF0), "vdpa1", "vhost_vdpa", number=1)
    sysfs.vdpa(sysfs.path(VF1), "vdpa2", "virtio_vdpa")
    vhost, virtio = Selectors(vdpa_type="vhost"), Selectors(vdpa_type="virtio")
    common = {"pf-pci-address": PF}
    assert info(sysfs, vhost) == {
        "type": "vdpa",
        "version": "1.1.0",
        "vdpa": {
            "parent-device": "vdpa1",
            "driver": "vhost",
            "path": "/dev/vhost-vdpa-1",
            "pci-address": VF0,
            **common,
        },
    }
    assert info(sysfs, virtio, key=VF1)["vdpa"] == {
        "parent-device": "vdpa2",
        "driver": "virtio",
        "pci-address": VF1,
        **common,
    }


@pytest.mark.parametrize("port", ["pf0vf1", "c1pf0vf1"])
def test_info_names_the_representor_of_a_vf_in_switchdev_mode(sysfs: FakeSysfs, port: str) -> None:
    for name, port_name, switch in (
        ("other", port, "f00d"),
        ("rep10", "pf0vf10", "ab12"),
        ("rep1", port, "ab12"),
        ("pf1rep1", "pf1vf1", "ab12"),
    ):
        sysfs.interface(PF, name, phys_port_name=port_name, phys_switch_id=switch)
    assert "representor-device" not in info(sysfs, key=VF1)["pci"]  # in legacy mode, its PF has no switch ID
    for attribute, text in {"phys_switch_id": "ab12", "phys_port_name": "p0"}.items():
        sysfs.set_interface("ens1f0", attribute, text)
    assert info(sysfs, key=VF1)["pci"]["representor-device"] == "rep1"
    assert "representor-device" not in info(sysfs)["pci"]


@pytest.mark.parametrize("kind", ["accelerator", "auxNetDevice"])
def test_what_the_specification_has_no_type_for_has_no_info(sysfs: FakeSysfs, kind: str) -> None:
    make: dict[str, Callable[[], str]] = {
        "accelerator": lambda: sysfs.device("0000:3b:00.0", driver="vfio-pci", pci_class="0x120000"),
        "auxNetDevice": lambda: sysfs.function(PF, SF, 88),
    }
    assert info(sysfs, key=make[kind](), kind=kind) is None
