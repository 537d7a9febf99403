"""Metrics of the node: attachments in the journal, VFs and their counters, devices of pods."""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from wirespeed import __version__
from wirespeed.devices import pci
from wirespeed.devices.pci import PciDevice
from wirespeed.kube.podresources import PodResources
from wirespeed.metrics import Family, Source
from wirespeed.node import ALIASES, Node
from wirespeed.observe import attached
from wirespeed.observe.attached import Attached, PodInterface
from wirespeed.observe.counters import of_vfs
from wirespeed.state.journal import Attachment, AttachmentStep

_VF = ("pf", "vf", "pci_address", "numa_node")
_EXPORTER_VF = ("pf", "vf", "pciAddr", "numa_node")  # the labels of the SR-IOV metrics exporter


def of(node: Node) -> list[Source]:
    return [
        build,
        Attachments(node).metrics,
        lambda: journal(node),
        lambda: vfs(Path(node.config.sysfs), attached.read(node)),
        lambda: pod_devices(Path(node.config.kubelet) / "pod-resources/kubelet.sock"),
    ]


def build() -> Iterator[Family]:
    family = Family("wirespeed_build", "info", "Versions of the agent and of Python: 1", ("version", "python"))
    family.add(__version__, platform.python_version())
    yield family


def journal(node: Node) -> Iterator[Family]:
    """Yield the size of the journal's files and the devices in it."""
    size = Family("wirespeed_journal_size_bytes", "gauge", "Size of the journal's files, which are in memory")
    files = (Path(f"{node.config.state}{suffix}") for suffix in ("", "-wal", "-shm"))
    size.add(value=sum(file.stat().st_size for file in files if file.exists()))
    yield size
    owned = Family("wirespeed_devices_owned", "gauge", "Devices that attachments own", labels=("plugin",))
    for plugin, count in sorted(Counter(claim.plugin for claim in node.journal.claims()).items()):
        owned.add(plugin, value=count)
    yield owned


class Attachments:
    """The attachments in the journal, and since when those that are not finished are seen there."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._since: dict[tuple[str, str, str], float] = {}  # Unix time by container, interface and step

    def metrics(self) -> Iterator[Family]:
        """Count the attachments; one that stays "planned", "adding" or "deleting" waits for a DEL or GC."""
        rows = self._node.journal.attachments()
        labels = ("plugin", "step")
        family = Family("wirespeed_attachments", "gauge", "Attachments in the journal", labels)
        counted = Counter((_plugin(row), row.step) for row in rows)
        for plugin in sorted({"sriov", "vhost"}.union(plugin for plugin, _ in counted)):
            for step in AttachmentStep:
                family.add(plugin, step, value=counted[plugin, step])
        yield family
        text = "When a scrape first saw the oldest attachment that has not finished its step, as Unix time"
        pending = Family("wirespeed_oldest_pending_attachment_timestamp_seconds", "gauge", text, labels)
        for group, since in sorted(self._oldest(rows).items()):
            pending.add(*group, value=since)
        yield pending

    def _oldest(self, rows: list[Attachment]) -> dict[tuple[str, str], float]:
        """Return when the oldest unfinished attachment was first seen, by plugin and step."""
        now = time.time()
        oldest: dict[tuple[str, str], float] = {}
        with self._lock:
            before, self._since = self._since, {}
            for row in rows:
                if row.step != AttachmentStep.ADDED:
                    key = (row.container, row.ifname, str(row.step))
                    since = self._since[key] = before.get(key, now)
                    group = (_plugin(row), str(row.step))
                    oldest[group] = min(since, oldest.get(group, since))
        return oldest


def _plugin(row: Attachment) -> str:
    """Return the (first) plugin of the attachment's network."""
    raw = (row.record.get("delegate") or {}).get("raw") or {}
    kind = str(next(iter(raw.get("plugins") or [raw])).get("type", ""))
    return ALIASES.get(kind, kind)


def vfs(sysfs: Path, of_pods: Attached) -> Iterator[Family]:
    """Yield the VFs and their counters, also under the names of the SR-IOV metrics exporter (sriov_vf_*)."""
    text = "VFs: 1, with the driver and the pod that it is attached to"
    info = Family("wirespeed_vf", "info", text, labels=(*_VF, "driver", "namespace", "pod"))
    families: dict[str, tuple[Family, Family]] = {}
    for pf, number, device, counters, _ in of_vfs(sysfs, of_pods.claims):
        labels = (pf.own_netdev, str(number), device.address, _numa(device))
        pod = of_pods.having(device.address) or PodInterface()
        owner = (pod.namespace, pod.pod)
        info.add(*labels, device.driver, *owner)
        for name, value in counters.items():
            ours, alias = families.setdefault(name, _counters(name))
            ours.add(*labels, *owner, value=value)
            alias.add(*labels, value=value)
    yield info
    for pair in families.values():
        yield from pair


def pod_devices(socket: Path) -> Iterator[Family]:
    """Yield which PCI device the kubelet allocated to which pod, under the name of the SR-IOV metrics exporter."""
    labels = ("pciAddr", "dev_type", "pod", "namespace", "container")
    family = Family("sriov_kubepoddevice", "gauge", "PCI devices of pods: 1", labels)
    if socket.exists():
        with closing(PodResources(socket)) as service:
            for given in service.allocations():
                if pci.ADDRESS.fullmatch(given.device):
                    family.add(given.device, given.resource, given.pod, given.namespace, given.container)
    yield family


def _counters(name: str) -> tuple[Family, Family]:
    """Return our metric of a counter and the exporter's, whose name lacks the suffix that a counter must have."""
    ours, text = f"wirespeed_vf_{name}", f"{name} of VFs, as the PF's driver counts them"
    return (
        Family(ours, "counter", text, labels=(*_VF, "namespace", "pod")),
        Family(f"sriov_vf_{name}", "unknown", f"The same as {ours}_total", labels=_EXPORTER_VF),
    )


def _numa(device: PciDevice) -> str:
    return str(device.numa_node) if device.numa_node >= 0 else ""
