"""Whether this node has what the pods ask for, and what each container was given of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.play import quantity
from wirespeed.play.kubelet import Kubelet
from wirespeed.play.manifests import Pod, extended, hugepages
from wirespeed.play.process import Mount


@dataclass
class Given:
    """What a container was given with its devices; `devices` are nodes by their path in the container.

    `cdi` names the CDI devices, whose part the runtime looks up when the container starts.
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


def wanted(pods: Iterable[Pod]) -> dict[str, int]:
    """How many of each extended resource the pods ask for together."""
    total: Counter[str] = Counter()
    for pod in pods:
        for container in pod.spec.containers:
            total.update(extended(container))
    return dict(total)


def check_hugepages(pods: Sequence[Pod], sysfs: Path = Path("/sys")) -> None:
    """Raise CniError(UNAVAILABLE) when there are not as many free hugepages as the pods ask for together."""
    total: Counter[str] = Counter()
    for pod in pods:
        total.update(hugepages(pod))
    for size, amount in total.items():
        page = quantity.whole(size)
        file = sysfs / f"kernel/mm/hugepages/hugepages-{page // 1024}kB/free_hugepages"
        try:
            free = int(file.read_text()) * page
        except OSError:
            raise CniError(Code.UNAVAILABLE, f"hugepages-{size}: this node has no pages of that size") from None
        if free < amount:
            raise CniError(
                Code.UNAVAILABLE,
                f"hugepages-{size}: {amount >> 20} MiB asked for, {free >> 20} MiB free: "
                f"this node needs more in {file.with_name('nr_hugepages')}",
            )


def allocate(kubelet: Kubelet, pod: Pod, *, counted: Collection[str] = ()) -> dict[str, Given]:
    """Have the pod's devices allocated; what each of its containers was given, by its name.

    Of resources that are only `counted` there is nothing to be given. Raises CniError(DEVICE) that names the
    container, when there are not enough or the device plugin refuses.
    """
    found = {}
    for container in pod.spec.containers:
        given = found[container.name] = Given()
        for resource, count in extended(container).items():
            if resource in counted:
                continue
            try:
                given.add(kubelet.allocate(pod.namespace, pod.name, container.name, resource, count))
            except CniError as error:
                raise error.prefixed(f"container {container.name}") from None
    return found
