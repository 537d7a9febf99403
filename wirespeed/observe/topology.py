"""The node's topology: PFs with their VFs and scalable functions, switches with their ports, and who has each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wirespeed.deviceplugin.config import load_node_pools
from wirespeed.deviceplugin.pools import assign, reader
from wirespeed.devices import switchdev
from wirespeed.devices.device import Device
from wirespeed.devices.functions import SCALABLE, ScalableFunction
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import collect_errors
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.routes import default_route_interfaces
from wirespeed.kernel.sysfs import entries
from wirespeed.node import Node
from wirespeed.observe import attached, switches
from wirespeed.observe.attached import Attached
from wirespeed.observe.layout import Function, Interface, Pf, Topology
from wirespeed.plugins.sriov.record import PLUGIN, SriovRecord, netdev_parent, record_of
from wirespeed.provision import facts, owners
from wirespeed.provision.facts import VfFacts
from wirespeed.provision.listing import shown_settings
from wirespeed.state.journal import DeviceClaim

VF, SCALABLE_FUNCTION = "VF", "SF"


@dataclass(frozen=True)
class _Seen:
    """What is read once for all functions: attachments, and the pools' resources by device."""

    pods: Attached
    pools: Mapping[str, str]


def topology(node: Node) -> Topology:
    """Read the node's topology.

    What is down or wrongly configured is a fault of the result. Raises Error(IO) if the journal cannot be read, and
    Error or OSError if PFs cannot be.
    """
    pods = attached.read(node)
    pools: dict[str, str] = {}
    errors = collect_errors([lambda: pools.update(_pools(node))])
    ports, silent = switches.read(node, pods, *switches.KINDS)
    return Topology(
        node=node.name,
        pfs=tuple(_pfs(node, _Seen(pods, pools))),
        switches=tuple(ports),
        faults=tuple(error.msg for error in (*errors, *silent)),
    )


def _pools(node: Node) -> dict[str, str]:
    """Return the resource of each device that the device plugin offers. Raises Error for its configuration."""
    if not node.config.device_plugin:
        return {}
    pools = load_node_pools(node.config)
    inventory = reader(pools, node.config.sysfs).read(default_route_interfaces())
    return {device: resource for resource, devices in assign(pools, inventory).items() for device in devices}


def _pfs(node: Node, seen: _Seen) -> Iterator[Pf]:
    sysfs = Path(node.config.sysfs)
    functions = _scalable_functions(sysfs, seen)
    found = facts.read(sysfs, owners=owners.owners(node.config))
    for pf in found:
        device = PciDevice(pf.address, sysfs)
        yield Pf(
            carrier=_carrier(device, pf.name),
            speed=_speed(device, pf.name),
            address=pf.address,
            name=pf.name,
            driver=pf.driver,
            model=pf.model,
            numa_node=pf.numa_node,
            up=pf.up,
            mtu=pf.mtu,
            link_type=pf.link_type,
            eswitch=pf.eswitch,
            total_vfs=pf.total_vfs,
            rdma=tuple(device.entries("infiniband")),
            functions=(*[_vf(each, device, seen) for each in pf.vfs], *functions.pop(pf.address, ())),
        )
    for address, of_pf in functions.items():  # of PFs without SR-IOV
        device = PciDevice(address, sysfs)
        name = device.own_netdev
        yield Pf(
            carrier=_carrier(device, name),
            speed=_speed(device, name),
            address=address,
            name=name,
            driver=device.driver,
            numa_node=device.numa_node,
            up=device.attribute(f"net/{name}/operstate") == "up",
            mtu=device.number_attribute(f"net/{name}/mtu", 0),
            link_type=device.link_type,
            rdma=tuple(device.entries("infiniband")),
            functions=tuple(of_pf),
        )


def _vf(vf: VfFacts, pf: PciDevice, seen: _Seen) -> Function:
    device, state, link = vf.device, vf.state, vf.state.link
    pod, claim = seen.pods.having(device.address), seen.pods.claims.get(device.address)
    record = _record(claim)
    on_host = link and Interface(
        name=link.name,
        mac=link.mac or "",
        mtu=link.mtu or 0,
        up=link.up,
        carrier=_carrier(device, link.name),
    )
    return Function(
        kind=VF,
        address=device.address,
        index=state.index,
        driver=state.driver,
        numa_node=device.numa_node,
        iommu_group=device.iommu_group,
        interface=on_host or _interface_in_pod(claim),
        settings=shown_settings(state.settings),
        representor=switchdev.representor(pf, switchdev.VF, state.index),
        bridge=record.port.bridge if record and record.port else "",
        rdma=_rdma(device, record),
        vdpa=vf.vdpa.name if vf.vdpa else "",
        pool=seen.pools.get(device.address, "") or (pod.resource if pod else ""),
        pod=pod,
        user="" if pod else vf.user,
    )


def _scalable_functions(sysfs: Path, seen: _Seen) -> dict[str, list[Function]]:
    """Return the node's scalable functions by the address of their PF."""
    found: dict[str, list[Function]] = {}
    for name in filter(SCALABLE.fullmatch, entries(f"{sysfs}/bus/{ScalableFunction.BUS}/devices")):
        device = ScalableFunction(name, sysfs)
        if (pf := device.physical_function) is not None:
            found.setdefault(pf.address, []).append(_sf(device, pf, seen))
    return found


def _sf(device: ScalableFunction, pf: PciDevice, seen: _Seen) -> Function:
    pod, claim = seen.pods.having(device.address), seen.pods.claims.get(device.address)
    record = _record(claim)
    return Function(
        kind=SCALABLE_FUNCTION,
        address=device.address,
        index=device.number,
        driver=device.driver,
        numa_node=pf.numa_node,
        interface=_interface_on_host(device) or _interface_in_pod(claim),
        representor=switchdev.representor(pf, switchdev.SF, device.number),
        bridge=record.port.bridge if record and record.port else "",
        rdma=_rdma(device, record),
        pool=seen.pools.get(device.address, "") or (pod.resource if pod else ""),
        pod=pod,
    )


def _record(claim: DeviceClaim | None) -> SriovRecord | None:
    return record_of(claim) if claim is not None and claim.plugin == PLUGIN else None


def _interface_on_host(device: Device) -> Interface | None:
    if not (names := device.netdevs):
        return None
    with Rtnl() as host:
        link = host.link(names[0])
    if link is None:
        return None
    return Interface(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up, carrier=link.running)


def _interface_in_pod(claim: DeviceClaim | None) -> Interface | None:
    """Return the claimed function's interface in its pod; None without one, as on vfio."""
    if claim is None or claim.plugin != PLUGIN:
        return None
    with netns.reopened(claim.netns, claim.identity) as ns:
        if ns is None:
            return None
        with Rtnl(netns_fd=ns.fd) as inside:
            link = inside.link_of_device(netdev_parent(claim))
    if link is None:
        return None
    return Interface(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up, carrier=link.running, in_pod=True)


def _rdma(device: Device, record: SriovRecord | None) -> tuple[str, ...]:
    """Return its RDMA devices, also those that have moved into the pod."""
    return tuple(device.entries("infiniband")) or tuple(record.rdma if record else ())


def _carrier(device: Device, interface: str) -> bool:
    return device.number_attribute(f"net/{interface}/carrier", 0) == 1


def _speed(device: Device, interface: str) -> int:
    """Return Mbit/s, 0 if unknown: without a link, the kernel reports -1 or an error."""
    return max(0, device.number_attribute(f"net/{interface}/speed", 0))
