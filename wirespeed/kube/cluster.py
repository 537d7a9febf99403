"""The interface to the cluster, which reads pods, networks and claims and writes a pod's network-status."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wirespeed.errors import Error, Kind, Thing

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
MIRROR = "kubernetes.io/config.mirror"
Object = dict[str, Any]  # as in the API's JSON
Key = tuple[str, str]  # namespace ("" for an object of the cluster), name
Listener = Callable[[Key, Object | None], None]  # gets the object as it is now, None if it was deleted
Change = Callable[[Mapping[str, str]], Mapping[str, str]]  # gets a pod's annotations, returns those to write
SOCKETS_VOLUME = "shared-dir"  # the only volume of a pod that networking uses: for vhost-user and memif sockets


# The moment of the innermost `retry_until`, -inf outside of any.
RETRY_UNTIL: ContextVar[float] = ContextVar("asked until", default=-math.inf)


@contextmanager
def retry_until(moment: float) -> Iterator[None]:
    """Retry failed requests to the cluster inside until `moment` (time.monotonic()); else, make each only once."""
    token = RETRY_UNTIL.set(moment)
    try:
        yield
    finally:
        RETRY_UNTIL.reset(token)


class NotFoundError(Error):
    """The cluster answered, and has no such object."""

    def __init__(self, what: str, *, where: str | Thing = "") -> None:
        super().__init__(Kind.INVALID_CONFIG, what, where=where)


class UnavailableError(Error):
    """The cluster did not answer in time; the call may be repeated. A write may have taken effect."""

    def __init__(self, what: str, *, where: str | Thing = "") -> None:
        super().__init__(Kind.TRY_AGAIN, what, where=where)


def is_pod(pod: Object, uid: str) -> bool:
    """Whether `uid` belongs to the pod. True if `uid` is "", or the pod has none, as in a manifest file.

    To the runtime, the UID of a static pod is the hash of its file: an annotation of its mirror pod in the API.
    """
    metadata = pod["metadata"]
    api_uid = metadata.get("uid") or ""
    return not uid or not api_uid or uid in (api_uid, (metadata.get("annotations") or {}).get(MIRROR))


@dataclass(frozen=True, kw_only=True)
class Event:
    """A Kubernetes event of a pod or a node: `reason` is in CamelCase, `message` one line for people.

    `uid` is the pod's UID in the API. That of a node is its name, as in the kubelet's events of nodes.
    """

    kind: Literal["Pod", "Node"] = "Pod"
    namespace: str = "default"  # also of objects without one
    name: str
    uid: str
    reason: str
    message: str
    warning: bool = False


class Cluster(Protocol):
    """Objects as in the API's JSON, trimmed, for any thread. `retry_until` sets how long requests are retried."""

    def pod(self, namespace: str, name: str, uid: str = "") -> Object:
        """Return the pod; not found if `is_pod` is false for `uid`. Raises NotFoundError, UnavailableError."""

    def whole_pod(self, namespace: str, name: str) -> Object:
        """Return the pod with all of its status, as it is now. Raises NotFoundError, UnavailableError."""

    def network(self, namespace: str, name: str) -> Object:
        """Return the NetworkAttachmentDefinition. Raises NotFoundError, UnavailableError."""

    def claim(self, namespace: str, name: str) -> Object:
        """Return the ResourceClaim as it is now. Raises NotFoundError, UnavailableError."""

    def slices(self, driver: str, *, fresh: bool = False) -> list[Object]:
        """Return the ResourceSlices of a DRA driver, possibly without those of other nodes.

        Without `fresh` they may be slightly outdated. Raises UnavailableError, or Error if that is refused.
        """

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[Object]) -> None:
        """Write a pod's network-status in one request. Raises NotFoundError, UnavailableError, Error."""

    def annotate(self, namespace: str, name: str, uid: str, change: Change) -> None:
        """Write annotations of a pod: `change` gets the current ones and returns those to write.

        If another writer changed the pod in between, `change` is called again, so no change is lost. Raises
        NotFoundError, UnavailableError, Error if the API server refuses, and what `change` raises.
        """

    def event(self, event: Event) -> None:
        """Report an event of a pod or a node. Does not wait and raises nothing; the event may be lost."""

    def on_pod_change(self, listener: Listener) -> None:
        """Call the listener for each of this node's pods, and then for each change of one.

        It gets (namespace, name) and the pod, None if the pod was deleted. It is never called by two threads at
        once, and must be quick. A cluster without watches never calls it.
        """

    def stop_retries(self) -> None:
        """Stop retrying: calls that wait for an answer end after their current attempt."""

    def check(self) -> None:
        """Raise Error if pods and networks cannot be read now."""

    def close(self) -> None:
        """Stop watches and threads."""
