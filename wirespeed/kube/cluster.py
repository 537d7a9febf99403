"""The seam to the cluster: where pods, networks and claims are read, and where a pod's network-status goes."""

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
SOCKETS_VOLUME = "shared-dir"  # the one volume of a pod that networking looks at: the folder for its sockets


_UNTIL: ContextVar[float] = ContextVar("asked until", default=-math.inf)


@contextmanager
def asked_until(moment: float) -> Iterator[None]:
    """Have a cluster that does not answer be asked again until the moment, a time.monotonic(), inside.

    Outside of it, and after that moment, it is asked once.
    """
    token = _UNTIL.set(moment)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def asking_ends() -> float:
    """The moment of the innermost `asked_until`, in the past where there is none."""
    return _UNTIL.get()


class NotFoundError(CniError):
    """The cluster answered, and has no such object."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.INVALID_CONFIG, what)


class UnavailableError(CniError):
    """The cluster did not answer in time; the call may be made again. What was written may have been done."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, what)


def is_pod(pod: dict[str, Any], uid: str) -> bool:
    """Whether `uid` is the pod's; "" is any pod's, and a pod of a file may have none.

    A static pod's runtime knows it by the hash of its file, its mirror in the API has a UID of its own and
    that hash as an annotation.
    """
    metadata = pod["metadata"]
    mine = metadata.get("uid") or ""
    return not uid or not mine or uid in (mine, (metadata.get("annotations") or {}).get(MIRROR))


@dataclass(frozen=True, kw_only=True)
class PodEvent:
    """Something that happened to a pod, for people: `reason` is one word in CamelCase, `message` a line.

    `uid` is the one that the pod has in the API.
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
    """The same of the node of that name. The kubelet's events of nodes say so, too: their UID is the name."""

    kind: ClassVar[str] = "Node"
    namespace: ClassVar[str] = "default"  # where events of objects without one are

    name: str
    reason: str
    message: str
    warning: bool = False

    @property
    def uid(self) -> str:
        return self.name


Event = PodEvent | NodeEvent


class Cluster(Protocol):
    """Objects as the API has them in JSON, of which only what networking reads. Calls are safe from any thread.

    For how long it is asked, `asked_until` says.
    """

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        """The pod; one whose metadata.uid differs from a given `uid` counts as not found.

        Raises NotFoundError, UnavailableError.
        """

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        """The NetworkAttachmentDefinition. Raises NotFoundError, UnavailableError."""

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        """The ResourceClaim as it is now. Raises NotFoundError, UnavailableError."""

    def slices(self, driver: str, *, fresh: bool = False) -> list[dict[str, Any]]:
        """The ResourceSlices of a DRA driver, perhaps without those of other nodes.

        They may be a moment old, if they are not to be `fresh`. Raises UnavailableError, or CniError when the API
        server refuses.
        """

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        """Write the annotation k8s.v1.cni.cncf.io/network-status of a pod, in one request.

        Raises NotFoundError, UnavailableError, or CniError when the API server refuses.
        """

    def annotate(
        self, namespace: str, name: str, uid: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        """Write annotations of a pod: those that `change` makes of the present ones.

        Where another writer comes between, they are made anew of what it wrote; so none is lost. Raises
        NotFoundError, UnavailableError, CniError when the API server refuses, and what `change` raises.
        """

    def event(self, event: Event) -> None:
        """Tell of something that happened to a pod or a node. Does not wait, raises nothing; it may be lost."""

    def on_pod_change(self, listener: Callable[[tuple[str, str], dict[str, Any] | None], None]) -> None:
        """Have the listener told of this node's pods: of all that are there, then of each change.

        It is given (namespace, name) and the pod, None when it is gone, in one thread at a time, and must be quick.
        A cluster that watches nothing tells nothing.
        """

    def hasten(self) -> None:
        """Give up asking again: calls that wait for an answer end after the attempt that runs."""

    def check(self) -> None:
        """Raise CniError where pods and networks cannot be read now."""

    def close(self) -> None:
        """End watches and threads."""
