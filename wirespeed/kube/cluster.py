"""The interface to the cluster, which reads pods, networks and claims and writes a pod's network-status."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from wirespeed.cni.errors import CniError, Code

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
MIRROR = "kubernetes.io/config.mirror"
SOCKETS_VOLUME = "shared-dir"  # the only volume of a pod that networking uses: for vhost-user and memif sockets


_UNTIL: ContextVar[float] = ContextVar("asked until", default=-math.inf)


@contextmanager
def asked_until(moment: float) -> Iterator[None]:
    """Inside, retry requests to a cluster that does not answer until `moment` (time.monotonic()).

    Outside, and after that moment, each request is made once.
    """
    token = _UNTIL.set(moment)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def asking_ends() -> float:
    """Return the moment of the innermost `asked_until`, -inf outside of any."""
    return _UNTIL.get()


class NotFoundError(CniError):
    """The cluster answered, and has no such object."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.INVALID_CONFIG, what)


class UnavailableError(CniError):
    """The cluster did not answer in time; the call may be repeated. A write may have taken effect."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, what)


def is_pod(pod: dict[str, Any], uid: str) -> bool:
    """Whether `uid` belongs to the pod. True if `uid` is "", or the pod has none, as in a manifest file.

    To the runtime, the UID of a static pod is the hash of its file. Its mirror pod in the API has another UID, and
    that hash as an annotation.
    """
    metadata = pod["metadata"]
    mine = metadata.get("uid") or ""
    return not uid or not mine or uid in (mine, (metadata.get("annotations") or {}).get(MIRROR))


@dataclass(frozen=True, kw_only=True)
class PodEvent:
    """A Kubernetes event of a pod: `reason` is one word in CamelCase, `message` one line for people.

    `uid` is the pod's UID in the API.
    """

    kind: ClassVar[str] = "Pod"

    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeEvent:
    """A Kubernetes event of a node. Its `uid` is the node's name, as in the kubelet's events of nodes."""

    kind: ClassVar[str] = "Node"
    namespace: ClassVar[str] = "default"  # the namespace for events of objects without one

    name: str
    reason: str
    message: str
    warning: bool = False

    @property
    def uid(self) -> str:
        return self.name


Event = PodEvent | NodeEvent


class Cluster(Protocol):
    """Objects as in the API's JSON, trimmed to what networking reads. Calls are safe from any thread.

    `asked_until` sets how long requests are retried.
    """

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        """Return the pod. If `uid` is given and `is_pod` does not match it, the pod counts as not found.

        Raises NotFoundError, UnavailableError.
        """

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        """Return the NetworkAttachmentDefinition. Raises NotFoundError, UnavailableError."""

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        """Return the ResourceClaim as it is now. Raises NotFoundError, UnavailableError."""

    def slices(self, driver: str, *, fresh: bool = False) -> list[dict[str, Any]]:
        """Return the ResourceSlices of a DRA driver, possibly without those of other nodes.

        Without `fresh` they may be slightly outdated. Raises UnavailableError, or CniError if the API server
        refuses.
        """

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        """Write the annotation k8s.v1.cni.cncf.io/network-status of a pod, in one request.

        Raises NotFoundError, UnavailableError, or CniError if the API server refuses.
        """

    def annotate(
        self, namespace: str, name: str, uid: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        """Write annotations of a pod: `change` gets the current ones and returns those to write.

        If another writer changed the pod in between, `change` is called again with the new annotations, so no
        change is lost. Raises NotFoundError, UnavailableError, CniError if the API server refuses, and what
        `change` raises.
        """

    def event(self, event: Event) -> None:
        """Report an event of a pod or a node. Does not wait and raises nothing; the event may be lost."""

    def on_pod_change(self, listener: Callable[[tuple[str, str], dict[str, Any] | None], None]) -> None:
        """Call the listener for each of this node's pods, and then for each change of one.

        It gets (namespace, name) and the pod, None if the pod was deleted. It is never called by two threads at
        once, and must be quick. A cluster without watches never calls it.
        """

    def hasten(self) -> None:
        """Stop retrying: calls that wait for an answer end after their current attempt."""

    def check(self) -> None:
        """Raise CniError if pods and networks cannot be read now."""

    def close(self) -> None:
        """Stop watches and threads."""
