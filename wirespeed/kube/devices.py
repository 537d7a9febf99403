"""The devices of a pod, whether device plugins allocated them (by the kubelet) or DRA drivers (by claims)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wirespeed.errors import Error, Kind, within
from wirespeed.kube import checkpoint, dra
from wirespeed.kube.cluster import MIRROR, Cluster

if TYPE_CHECKING:
    from wirespeed.kube.podresources import PodResources


class PodDevices:
    """All devices of a pod, for any thread. `pod_resources` and `cluster`, slow to load, are called if needed."""

    def __init__(
        self, kubelet: Path, *, pod_resources: Callable[[], PodResources], cluster: Callable[[], Cluster]
    ) -> None:
        self._socket = kubelet / "pod-resources/kubelet.sock"
        self._checkpoint = kubelet / "device-plugins" / checkpoint.NAME
        self._pod_resources = pod_resources
        self._cluster = cluster

    def of(self, pod: dict[str, Any], uid: str = "") -> dict[str, list[str]]:
        """Return the sorted device ids by resource name; `uid` is the runtime's UID of the pod.

        Raises Error that names the pod, of kind IO if the kubelet has neither its socket nor its checkpoint.
        """
        metadata = pod["metadata"]
        namespace, name = metadata.get("namespace") or "", metadata.get("name") or ""
        where = f"devices of pod {namespace}/{name}"
        if not namespace or not name:
            raise Error(Kind.INVALID_CONFIG, where=where, expected="a namespace and a name")
        if self._socket.exists():
            found = self._pod_resources().devices(namespace, name)  # its errors name the pod already
        else:
            with within(where):
                self._check_checkpoint()
                # The kubelet's UID of a static pod is the hash of its file, not the UID of its mirror pod.
                mirrored = (metadata.get("annotations") or {}).get(MIRROR)
                found = checkpoint.devices(self._checkpoint, mirrored or uid or metadata.get("uid") or "")
        if not dra.has_claims(pod):
            return found
        with within(where):
            claimed = dra.devices(self._cluster(), pod)
        return {
            resource: sorted({*found.get(resource, ()), *claimed.get(resource, ())}) for resource in found | claimed
        }

    def serves(self, pod: dict[str, Any], resource: str) -> bool:
        """Whether a device plugin of this node, or a driver of the pod's claims, has devices of the resource.

        True if the kubelet does not report it. Raises Error that names resource and pod: TRY_AGAIN if the kubelet
        does not answer, and what the cluster raises.
        """
        metadata = pod["metadata"]
        with within(f"resource {resource} of pod {metadata.get('namespace')}/{metadata.get('name')}"):
            return self._is_registered(resource) or (
                dra.has_claims(pod) and dra.publishes(self._cluster(), pod, resource)
            )

    def _is_registered(self, resource: str) -> bool:
        """Whether a device plugin has registered the resource with the kubelet.

        Either source counts: pod-resources lists only resources with healthy devices, and the checkpoint file,
        which survives restarts of kubelet and device plugin, need not be mounted.
        """
        allocatable = self._pod_resources().allocatable() if self._socket.exists() else None
        checkpointed = checkpoint.registered_resources(self._checkpoint) if self._checkpoint.exists() else None
        return (allocatable is None and checkpointed is None) or resource in (allocatable or set()) | (
            checkpointed or set()
        )

    def check(self) -> None:
        """Raise Error if no source for the devices of pods is available now."""
        if self._socket.exists():
            self._pod_resources().check()
        else:
            self._check_checkpoint()

    def _check_checkpoint(self) -> None:
        if not self._checkpoint.exists():
            raise Error(
                Kind.IO,
                f"neither {self._socket} nor {self._checkpoint} is there",
                expected="a running kubelet, and its folder as the key kubelet of the agent's configuration",
            )
