"""Metrics of the node: attachments in the journal, VFs and their counters, devices of pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from wirespeed.devices import pci, vfstats
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kube.podresources import PodResources
from wirespeed.metrics import Family, Source
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import of_earlier_boot
from wirespeed.plugins.sriov.describe import netdev_parent
from wirespeed.state.journal import AttachmentStep, DeviceClaim

_VF = ("pf", "vf", "pciAddr", "numa_node")


def of(node: Node) -> list[Source]:
    """Return the sources for this node."""
    return [
        lambda: attachments(node),
        lambda: vfs(
            Path(node.config.sysfs), _owners(node), {claim.device: claim for claim in node.journal.claims()}
        ),
        lambda: pod_devices(Path(node.config.kubelet) / "pod-resources/kubelet.sock"),
    ]


def attachments(node: Node) -> Iterator[Family]:
    """Count the attachments by step; one that stays "adding" or "deleting" waits for a DEL or GC."""
    family = Family(name="wirespeed_attachments", kind="gauge", text="Attachments in the journal", labels=("step",))
    counted = Counter(row.step for row in node.journal.attachments())
    for step in AttachmentStep:
        family.add(step, value=counted[step])
    yield family
    owned = Family(
        name="wirespeed_devices_owned", kind="gauge", text="Devices that attachments own", labels=("plugin",)
    )
    for plugin, count in sorted(Counter(claim.plugin for claim in node.journal.claims()).items()):
        owned.add(plugin, value=count)
    yield owned


def vfs(sysfs: Path, owners: Mapping[str, tuple[str, str]], claims: Mapping[str, DeviceClaim]) -> Iterator[Family]:
    """Yield the VFs and their counters, also under the names of the SR-IOV metrics exporter (sriov_vf_*).

    `owners` has the (namespace, pod) of attached devices, `claims` the journal's claims, both by PCI address.
    """
    info = Family(
        name="wirespeed_vf_info",
        kind="gauge",
        text="VFs: 1, with the driver and the pod that it is attached to",
        labels=(*_VF, "driver", "namespace", "pod"),
    )
    counters: dict[str, Family] = {}
    with Rtnl() as host:
        for pf in pci.network_devices(sysfs):
            if not pf.total_vfs:
                continue
            stats = vfstats.read(pf, host)
            for index, address in pf.virtual_functions():
                device = PciDevice(address, sysfs)
                labels = (pf.own_netdev, str(index), address, _numa(device))
                owner = owners.get(address, ("", ""))
                info.add(*labels, device.driver, *owner)
                for name, value in (stats.get(index) or _in_pod(claims.get(address))).items():
                    _counter(counters, name, value, labels, owner)
    yield info
    yield from counters.values()


def pod_devices(socket: Path) -> Iterator[Family]:
    """Yield which PCI device the kubelet allocated to which pod, under the name of the SR-IOV metrics exporter."""
    family = Family(
        name="sriov_kubepoddevice",
        kind="gauge",
        text="PCI devices of pods: 1",
        labels=("pciAddr", "dev_type", "pod", "namespace", "container"),
    )
    if socket.exists():
        service = PodResources(socket)
        try:
            for given in service.given():
                if pci.ADDRESS.fullmatch(given.device):
                    family.add(given.device, given.resource, given.pod, given.namespace, given.container)
        finally:
            service.close()
    yield family


def _in_pod(claim: DeviceClaim | None) -> Mapping[str, int]:
    """Return the counters of an attached VF's own interface, for a PF whose driver has none."""
    if claim is None:
        return {}
    with netns.reopened(claim.netns, claim.identity) as ns:
        if ns is None:
            return {}
        with Rtnl(netns_fd=ns.fd) as inside:
            return vfstats.of_interface(netdev_parent(claim), inside)


def _counter(
    found: dict[str, Family], name: str, value: int, labels: tuple[str, ...], owner: tuple[str, str]
) -> None:
    ours = found.setdefault(
        f"wirespeed_vf_{name}",
        Family(
            name=f"wirespeed_vf_{name}",
            kind="counter",
            text=f"{name} of VFs, as the PF's driver counts them",
            labels=(*_VF, "namespace", "pod"),
        ),
    )
    ours.add(*labels, *owner, value=value)
    # The exporter's names lack the suffix _total, which a counter must have.
    alias = found.setdefault(
        f"sriov_vf_{name}",
        Family(name=f"sriov_vf_{name}", kind="unknown", text=f"The same as wirespeed_vf_{name}_total", labels=_VF),
    )
    alias.add(*labels, value=value)


def _owners(node: Node) -> dict[str, tuple[str, str]]:
    """Return the (namespace, pod) of the attached devices, from the journal."""
    found = {}
    for row in node.journal.attachments():
        delegate = row.record.get("delegate") or {}
        args = delegate.get("args") or {}
        # An attachment of an earlier boot no longer has its device.
        if delegate.get("device") and not of_earlier_boot(row):
            found[delegate["device"]] = (args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", ""))
    return found


def _numa(device: PciDevice) -> str:
    return str(device.numa_node) if device.numa_node >= 0 else ""
