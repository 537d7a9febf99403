"""Check that this node has the resources that pods request, and allocate them to containers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirespeed import errors
from wirespeed.errors import Error, Kind, Thing
from wirespeed.play import quantity
from wirespeed.play.kubelet import Kubelet
from wirespeed.play.manifests import extended_resources, hugepages
from wirespeed.play.objects import Pod
from wirespeed.play.process import Mount


@dataclass
class Allocated:
    """What device plugins give a container. `devices` maps paths in the container to paths on this machine.

    `cdi` has the names of CDI devices; their specifications are read when the container starts.
    """

    environment: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    cdi: list[str] = field(default_factory=list)

    def add(self, response: Any) -> None:
        """Add a ContainerAllocateResponse."""
        self.environment.update(response.envs)
        self.devices.update((device.container_path, device.host_path) for device in response.devices)
        self.mounts += [
            Mount(each.host_path, each.container_path, ("ro",) if each.read_only else ())
            for each in response.mounts
        ]
        self.cdi += [device.name for device in response.cdi_devices]


def requested_resources(pods: Iterable[Pod]) -> dict[str, int]:
    """Return how many of each extended resource all pods request together."""
    total: Counter[str] = Counter()
    for pod in pods:
        for container in pod.spec.containers:
            total.update(extended_resources(container))
    return dict(total)


def check_hugepages(pods: Sequence[Pod], sysfs: Path = Path("/sys")) -> None:
    """Raise Error(UNAVAILABLE) if fewer hugepages are free than the pods request together."""
    total: Counter[str] = Counter()
    for pod in pods:
        total.update(hugepages(pod))
    for size, amount in total.items():
        page, where = quantity.whole_number(size), f"hugepages-{size}"
        file = sysfs / f"kernel/mm/hugepages/hugepages-{page // 1024}kB/free_hugepages"
        try:
            free = int(file.read_text()) * page
        except OSError:
            raise Error(Kind.UNAVAILABLE, "this node has no pages of that size", where=where) from None
        if free < amount:
            what = f"{amount >> 20} MiB requested, {free >> 20} MiB free"
            hint = f"this node needs more in {file.with_name('nr_hugepages')}"
            raise Error(Kind.UNAVAILABLE, what, where=where, hint=hint)


def allocate(kubelet: Kubelet, pod: Pod, *, unserved: Collection[str] = ()) -> dict[str, Allocated]:
    """Allocate the pod's devices; return what each container gets, by its name.

    Nothing is allocated for resources in `unserved`. Raises Error(DEVICE) that names the container, if there are
    too few devices or the device plugin rejects the request.
    """
    found = {}
    for container in pod.spec.containers:
        allocated = found[container.name] = Allocated()
        for resource, count in extended_resources(container).items():
            if resource in unserved:
                continue
            with errors.within(Thing("container", container.name)):
                allocated.add(kubelet.allocate(pod.namespace, pod.name, container.name, resource, count))
    return found
