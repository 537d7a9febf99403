"""A pod as the node sees it: its containers' processes and cgroups, and its devices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wirespeed.devices.functions import canonical
from wirespeed.doctor.files import Files
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kube.cluster import MIRROR, NotFoundError
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import recorded_delegate, recorded_identity

# The UID in the name of a pod's cgroup: with dashes (cgroupfs), or underscores (systemd).
_UID = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})")
_PAUSE = "pause"


@dataclass(frozen=True)
class Container:
    """A container of the pod, by its oldest process, and the cgroup that this process is in ("/kubepods...")."""

    pid: int
    name: str
    cgroup: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


@dataclass(frozen=True)
class PodView:
    """A pod on this node; `devices` are ids as the kubelet has them, VFs by PCI address."""

    name: str  # namespace/name
    uid: str
    containers: tuple[Container, ...]
    devices: tuple[str, ...]


def find(node: Node, pod: str, files: Files) -> PodView:
    """Return a pod, "[namespace/]name", that runs on this node. Raises Error(NOT_ATTACHED) if none is found."""
    namespace, _, name = pod.rpartition("/")
    label = f"{namespace or 'default'}/{name}"
    with within(Thing("pod", label)):
        uid, spaces, devices = _attached(node, *label.split("/", 1))
        if not spaces:
            uid = _uid_of(node, *label.split("/", 1))
        containers = tuple(_containers(files, uid, spaces))
        if not containers:
            raise Error(
                Kind.NOT_ATTACHED, "no process of it is seen here", hint="run this on the pod's node, as root"
            )
    uid = next(filter(None, (_uid_in(each.cgroup) for each in containers)), uid)
    return PodView(label, uid, containers, tuple(sorted(devices | _allocated(node, label))))


def _attached(node: Node, namespace: str, name: str) -> tuple[str, set[tuple[int, int]], set[str]]:
    """Return from the journal the pod's UID, its network namespaces (device, inode), and its devices."""
    uid = ""
    spaces: set[tuple[int, int]] = set()
    devices: set[str] = set()
    if not os.path.exists(node.config.state):
        return uid, spaces, devices  # opening the journal would create it
    claims = node.journal.claims()
    for row in node.journal.attachments():
        args = recorded_delegate(row).args
        if (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME")) != (namespace, name):
            continue
        identity = recorded_identity(row)
        uid = args.get("K8S_POD_UID", uid)
        spaces.add((identity.dev, identity.ino))
        devices |= {claim.device for claim in claims if claim.container == row.container}
    return uid, spaces, devices


def _uid_of(node: Node, namespace: str, name: str) -> str:
    """Return the UID of a pod that wirespeed did not attach, from the cluster. Raises Error(NOT_ATTACHED)."""
    try:
        metadata = node.cluster.pod(namespace, name)["metadata"]
        # The cgroup of a static pod has the UID of its file, not that of its mirror pod.
        return str((metadata.get("annotations") or {}).get(MIRROR) or metadata.get("uid") or "")
    except NotFoundError as error:
        raise Error(Kind.NOT_ATTACHED, "neither the journal of this node nor the cluster has it") from error


def _allocated(node: Node, label: str) -> set[str]:
    """Return the devices that the kubelet allocated to the pod; none without its socket. Raises TRY_AGAIN."""
    if not os.path.exists(f"{node.config.kubelet}/pod-resources/kubelet.sock"):
        return set()
    namespace, name = label.split("/", 1)
    found = node.pod_resources.devices(namespace, name)
    return {device for ids in found.values() for each in ids if (device := canonical(each))}


def _containers(files: Files, uid: str, spaces: set[tuple[int, int]]) -> Iterator[Container]:
    """Yield the pod's containers: one process of each cgroup; the sandbox's own only if there is no other."""
    found: dict[str, Container] = {}
    for pid in sorted(int(each) for each in files.entries("/proc") if each.isdigit()):
        try:
            cgroup = _cgroup(files.text(f"/proc/{pid}/cgroup"))
            mine = _uid_in(cgroup) == uid if uid and _uid_in(cgroup) else _space(files, pid) in spaces
            if mine and cgroup not in found:
                found[cgroup] = Container(pid, files.text(f"/proc/{pid}/comm"), cgroup)
        except Error:  # the process has ended, or is a kernel's, or another user's
            continue
    real = [each for each in found.values() if each.name != _PAUSE]
    yield from real or found.values()


def _space(files: Files, pid: int) -> tuple[int, int] | None:
    try:
        stat = os.stat(files.place(f"/proc/{pid}/ns/net"))
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _cgroup(text: str) -> str:
    """Return the path of the unified hierarchy, or with cgroup v1 that of the controller cpuset."""
    lines: Iterable[list[str]] = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    paths = {controllers: path for _, controllers, path in lines}
    return paths.get("") or next((path for names, path in paths.items() if "cpuset" in names.split(",")), "")


def _uid_in(cgroup: str) -> str:
    match = _UID.search(cgroup)
    return match[1].replace("_", "-") if match else ""
