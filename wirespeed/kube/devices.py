"""The devices of a pod, whether device plugins allocated them (by the kubelet) or DRA drivers (by claims)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import checkpoint, dra
from wirespeed.kube.cluster import MIRROR, Cluster

if TYPE_CHECKING:
    from wirespeed.kube.podresources import PodResources


class PodDevices:
    """All devices of a pod; safe from any thread.

    `kubelet` is the kubelet's folder. `pod_resources` and `cluster` are called only when needed, as they are slow
    to load.
    """

    def __init__(
        self, kubelet: Path, *, pod_resources: Callable[[], PodResources], cluster: Callable[[], Cluster]
    ) -> None:
        self._socket = kubelet / "pod-resources/kubelet.sock"
        self._checkpoint = kubelet / "device-plugins" / checkpoint.NAME
        self._pod_resources = pod_resources
        self._cluster = cluster

    def of(self, pod: dict[str, Any], uid: str = "") -> dict[str, list[str]]:
        """Return the sorted device ids by resource name; `pod` is the API object, `uid` the runtime's UID of it.

        Raises CniError that begins with the pod: what the sources raise, and IO_FAILURE if the kubelet has neither
        its socket nor its checkpoint.
        """
        metadata = pod["metadata"]
        namespace, name = metadata.get("namespace") or "", metadata.get("name") or ""
        where = f"devices of pod {namespace}/{name}"
        if not namespace or not name:
            raise CniError(Code.INVALID_CONFIG, f"{where}: expected a namespace and a name")
        if self._socket.exists():
            found = self._pod_resources().devices(namespace, name)  # its errors name the pod already
        else:
            try:
                found = self._from_checkpoint(_known_by(metadata, uid))
            except CniError as error:
                raise error.prefixed(where) from error
        if not dra.has_claims(pod):
            return found
        try:
            claimed = dra.devices(self._cluster(), pod)
        except CniError as error:
            raise error.prefixed(where) from error
        return {
            resource: sorted({*found.get(resource, ()), *claimed.get(resource, ())}) for resource in found | claimed
        }

    def serves(self, pod: dict[str, Any], resource: str) -> bool:
        """Whether a device plugin of this node, or a driver of the pod's claims, has devices of the resource.

        True if the kubelet does not report it. Raises CniError that begins with resource and pod: TRY_AGAIN_LATER
        if the kubelet does not answer, and what the cluster raises.
        """
        metadata = pod["metadata"]
        where = f"resource {resource} of pod {metadata.get('namespace')}/{metadata.get('name')}"
        try:
            if self._registered(resource):
                return True
            return dra.has_claims(pod) and dra.publishes(self._cluster(), pod, resource)
        except CniError as error:
            raise error.prefixed(where) from error

    def _registered(self, resource: str) -> bool:
        """Whether a device plugin has registered the resource with the kubelet.

        Either source counts: pod-resources lists only resources with healthy devices, and the checkpoint file,
        which survives restarts of kubelet and device plugin, need not be mounted.
        """
        told = self._pod_resources().allocatable() if self._socket.exists() else None
        kept = checkpoint.registered(self._checkpoint) if self._checkpoint.exists() else None
        return (told is None and kept is None) or resource in (told or set()) | (kept or set())

    def check(self) -> None:
        """Raise CniError if no source for the devices of pods is available now."""
        if self._socket.exists():
            self._pod_resources().check()
        else:
            self._check_checkpoint()

    def _from_checkpoint(self, uid: str) -> dict[str, list[str]]:
        self._check_checkpoint()
        return checkpoint.devices(self._checkpoint, uid)

    def _check_checkpoint(self) -> None:
        if not self._checkpoint.exists():
            raise CniError(
                Code.IO_FAILURE,
                f"neither {self._socket} nor {self._checkpoint} is there: expected the kubelet's folder "
                "under the key kubelet of the agent's configuration, and a kubelet that runs",
            )


def _known_by(metadata: dict[str, Any], uid: str) -> str:
    """Return the kubelet's UID of the pod: for a static pod the hash of its file, not the UID of its mirror pod."""
    return (metadata.get("annotations") or {}).get(MIRROR) or uid or metadata.get("uid") or ""
