"""What a container gets with a device: each provider contributes information and device nodes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.pools import matching_selectors
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import AUXILIARY, NetDevice
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vdpa import vhost_node
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kernel.sysfs import attribute_text, entries

log = logging.getLogger(__name__)

_UIO_DRIVERS = frozenset({"uio", "igb_uio", "uio_pci_generic"})
_VFIO = "/dev/vfio/vfio"
_VHOST_NET, _TUN = "/dev/vhost-net", "/dev/net/tun"
_RDMA_CLASSES = ("infiniband_cm", "infiniband_mad", "infiniband_verbs")
_RDMA_INFO_KEYS = ("issm", "umad", "uverbs")  # prefixes of node names that are keys of the info (ucm is not)

Node = tuple[str, str]  # its path in the container and on the host


@dataclass(frozen=True)
class _Given:
    """A device that a container gets, its pool, and the pool's selectors that matched it."""

    device: NetDevice
    selectors: Selectors
    pool: PoolConfig
    sysfs: str

    @property
    def path(self) -> str:
        """The device's folder in sysfs."""
        bus = "auxiliary" if self.device.kind == AUXILIARY else "pci"
        return f"{self.sysfs}/bus/{bus}/devices/{self.device.address}"


class Part(NamedTuple):
    """A provider's output: `info` under `key` in the variable PCIDEVICE_<RESOURCE>_INFO, and device nodes."""

    key: str
    info: Mapping[str, str]
    nodes: tuple[Node, ...] = ()


def parts(pool: PoolConfig, device: NetDevice, sysfs: str) -> list[Part]:
    """Return the parts of all providers for a device of the pool. Raises Error(DEVICE) if a node is missing."""
    given = _Given(device, matching_selectors(pool, device) or Selectors(), pool, sysfs)
    found = [Part("generic", {"deviceID": device.address})]
    with within(Thing("device", device.address)):
        return found + [part for provide in _PROVIDERS if (part := provide(given)) is not None]


def _same_paths(*paths: str) -> tuple[Node, ...]:
    """Return nodes with the same path in the container and on the host."""
    return tuple((path, path) for path in paths)


def _vfio(given: _Given) -> Part | None:
    """For vfio-pci or a vendor's vfio driver: /dev/vfio/vfio and the IOMMU group's node.

    Without an IOMMU the host's node is noiommu-<group>; DPDK expects it as <group>.
    """
    device = given.device
    if device.driver != "vfio-pci" and not os.path.isdir(f"{given.path}/vfio-dev"):
        return None
    if not device.iommu_group:
        raise Error(Kind.DEVICE, f"on {device.driver} without an IOMMU group")
    node = f"/dev/vfio/{device.iommu_group}"
    info = {"dev-mount": node, "mount": _VFIO}
    if PciDevice(device.address, Path(given.sysfs)).is_noiommu:
        return Part("vfio", info, (*_same_paths(_VFIO), (node, f"/dev/vfio/noiommu-{device.iommu_group}")))
    return Part("vfio", info, _same_paths(_VFIO, node, *_character_devices(given)))


def _character_devices(given: _Given) -> list[str]:
    """Return the device's own vfio node and that of iommufd, if the kernel is built with both."""
    folder = f"{given.path}/vfio-dev"
    found = [f"/dev/vfio/devices/{name}" for name in entries(folder) if os.path.exists(f"{folder}/{name}/dev")]
    return [*found, "/dev/iommu"] if found and os.path.exists(f"{given.sysfs}/class/misc/iommu") else []


def _uio(given: _Given) -> Part | None:
    """For a uio driver: the /dev/uioN node."""
    if given.device.driver not in _UIO_DRIVERS:
        return None
    found = entries(f"{given.path}/uio")
    if not found:
        raise Error(Kind.DEVICE, f"on {given.device.driver} without a uio device")
    node = f"/dev/{found[0]}"
    return Part("uio", {"mount": node}, _same_paths(node))


def _rdma(given: _Given) -> Part | None:
    """For a selector with isRdma: the nodes of the RDMA devices."""
    if not given.selectors.is_rdma:
        return None
    devices = entries(f"{given.path}/infiniband")
    if not devices:
        raise Error(Kind.DEVICE, "its RDMA device is not in this namespace")
    nodes = [f"/dev/infiniband/{name}" for device in devices for name in _rdma_nodes(given.sysfs, device)]
    info = {"rdma_dev": devices[0]}
    for node in nodes:
        for key in _RDMA_INFO_KEYS:
            if os.path.basename(node).startswith(key):
                info.setdefault(key, node)
    if os.path.exists(f"{given.sysfs}/class/misc/rdma_cm"):
        info["rdma_cm"] = "/dev/infiniband/rdma_cm"
        nodes.append(info["rdma_cm"])
    return Part("rdma", info, _same_paths(*nodes))


def _rdma_nodes(sysfs: str, device: str) -> list[str]:
    """Return the names of the character devices of an RDMA device."""
    return [
        name
        for each in _RDMA_CLASSES
        for name in entries(f"{sysfs}/class/{each}")
        if attribute_text(f"{sysfs}/class/{each}/{name}/ibdev") == device
    ]


def _vdpa(given: _Given) -> Part | None:
    """For a selector with vdpaType "vhost": the vdpa device's node. One of type virtio is a netdev and has none."""
    if given.selectors.vdpa_type != "vhost":
        return None
    node = vhost_node(given.sysfs, given.device.vdpa)
    if not node:
        raise Error(Kind.DEVICE, f"vdpa device {given.device.vdpa} without a vhost-vdpa node")
    return Part("vdpa", {"mount": node}, _same_paths(node))


def _vhost_net(given: _Given) -> Part | None:
    """For a selector with needVhostNet: the nodes for virtio-user with the kernel's vhost-net.

    Nothing if the kernel has no vhost-net: the devices can be used without it.
    """
    if not given.selectors.need_vhost_net:
        return None
    if not os.path.exists(f"{os.path.dirname(given.sysfs.rstrip('/'))}{_VHOST_NET}"):  # /dev is beside sysfs
        log.warning("resource %s: needVhostNet: there is no %s", given.pool.resource, _VHOST_NET)
        return None
    return Part("vhost", {"net-mount": _VHOST_NET, "tun-mount": _TUN}, _same_paths(_VHOST_NET, _TUN))


def _extra(given: _Given) -> Part | None:
    """For a pool with additionalInfo: that of "*", overridden by that of the device; a scalable function's PF's."""
    info, device = given.pool.additional_info, given.device
    if info is None:
        return None
    address = device.pf if device.kind == AUXILIARY else device.address
    return Part("extra", {**info.get("*", {}), **info.get(address, {})})


_PROVIDERS: tuple[Callable[[_Given], Part | None], ...] = (_vfio, _uio, _rdma, _vdpa, _vhost_net, _extra)
