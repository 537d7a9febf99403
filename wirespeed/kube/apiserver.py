"""A cluster behind an API server: this node's pods and all networks in watch caches, status by one PATCH."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

from wirespeed.errors import Thing
from wirespeed.kube import reviews
from wirespeed.kube.api import Api, RefusedError, Timeouts
from wirespeed.kube.cluster import (
    NETWORK_STATUS,
    RETRY_UNTIL,
    SOCKETS_VOLUME,
    Change,
    Event,
    Listener,
    NotFoundError,
    Object,
    is_pod,
)
from wirespeed.kube.events import Events
from wirespeed.kube.refusals import request_errors
from wirespeed.kube.retry import RetryPolicy, with_retries
from wirespeed.kube.reviews import Right
from wirespeed.kube.slices import Slices
from wirespeed.kube.watch import WatchCache, list_all, pick
from wirespeed.metrics import Durations
from wirespeed.trace import step

_PODS = "/api/v1/pods"
_POD = "/api/v1/namespaces/{namespace}/pods/{name}"
_NADS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
_NAD = "/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"
_NADS_GROUP = "/apis/k8s.cni.cncf.io/v1"
_CLAIM = "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"

_LIST_TIMEOUTS = Timeouts(connect=2.0, read=10.0, total=30.0)
T = TypeVar("T")

_POLICY = RetryPolicy()


class ApiCluster:
    """Pods and networks from the API server in `kubeconfig`; "" is the in-cluster service account.

    With `watch`, the pods of `node_name` ("" for all) and all NetworkAttachmentDefinitions are cached in memory,
    trimmed to what networking reads; without it, each lookup is a request. `policy` has the timeouts of requests,
    which are retried until the moment of `retry_until`. Raises Error(INVALID_CONFIG).
    """

    def __init__(
        self, kubeconfig: str = "", node_name: str = "", *, watch: bool = True, policy: RetryPolicy = _POLICY
    ) -> None:
        self._policy = policy
        self._api = Api(kubeconfig)
        node = {"fieldSelector": f"spec.nodeName={node_name}"} if node_name else {}
        self._pods = WatchCache(self._api, _PODS, node, trim_pod)
        self._networks = WatchCache(self._api, _NADS, {}, trim_network)
        self._caches = (self._pods, self._networks) if watch else ()
        self._slices = Slices(self._api, node_name, watch=watch)
        self._events = Events(self._api, node_name)
        for cache in self._caches:
            cache.start()

    def metrics(self) -> list[Durations]:
        """Return the durations of its requests (`wirespeed.metrics`)."""
        return [self._api.durations]

    def pod(self, namespace: str, name: str, uid: str = "") -> Object:
        cached = self._pods.get(namespace, name)
        if cached is not None and uid and is_pod(cached, uid):
            return cached
        # The runtime may be ahead of the watch, and this a new pod with the name of an earlier one.
        return _checked_uid(self._get(_POD, namespace, name, "pod"), uid)

    def whole_pod(self, namespace: str, name: str) -> Object:
        return self._get(_POD, namespace, name, "pod")

    def pods(self) -> list[Object]:
        """Return the pods of all nodes, as they are now. Raises UnavailableError, or Error if it is refused."""
        with request_errors(self._api, "pods"):
            return list_all(self._api, _PODS, {}, trim_pod, timeouts=_LIST_TIMEOUTS)[0]

    def network(self, namespace: str, name: str) -> Object:
        cached = self._networks.get(namespace, name)
        if cached is not None:
            return cached
        return trim_network(self._get(_NAD, namespace, name, "NetworkAttachmentDefinition"))

    def claim(self, namespace: str, name: str) -> Object:
        return self._get(_CLAIM, namespace, name, "ResourceClaim")

    def slices(self, driver: str, *, fresh: bool = False) -> list[Object]:
        what = f"ResourceSlices of driver {driver}"
        return self._with_retries(what, lambda timeouts: self._slices.of(driver, fresh=fresh, timeouts=timeouts))

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[Object]) -> None:
        annotations = {NETWORK_STATUS: json.dumps(status, indent=4)}
        self._patch(self.pod(namespace, name, uid), uid, "network-status", lambda _: {"annotations": annotations})

    def annotate(self, namespace: str, name: str, uid: str, change: Change) -> None:
        def changed(pod: Object) -> Object:
            metadata = pod["metadata"]  # its version is a precondition: the change is based on that version
            return {"resourceVersion": metadata["resourceVersion"], "annotations": change(metadata["annotations"])}

        self._patch(self.pod(namespace, name, uid), uid, "annotations", changed)

    def event(self, event: Event) -> None:
        self._events.send(event)

    def on_pod_change(self, listener: Listener) -> None:
        self._pods.listen(listener)

    def _patch(self, pod: Object, uid: str, what: str, metadata: Callable[[Object], Object]) -> None:
        """Patch the metadata of a pod with what `metadata` returns for it; repeat that after a conflict.

        A patch whose answer was lost may have been applied. It is idempotent, so it is sent again.
        """
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = _path(_POD, namespace, name)
        current: Object | None = pod

        def patch(timeouts: Timeouts) -> None:
            nonlocal current
            current = current or _checked_uid(self._api.get(path, timeouts=timeouts), uid)
            # The UID is a precondition. It is that of the API: the runtime knows a static pod by another one.
            api_uid = current["metadata"]["uid"]
            try:
                self._api.patch(
                    path + "/status", {"metadata": {"uid": api_uid, **metadata(current)}}, timeouts=timeouts
                )
            except RefusedError as error:
                current = None
                if error.status == 422:
                    current = _checked_uid(self._api.get(path, timeouts=timeouts), uid)
                    if current["metadata"]["uid"] != api_uid:  # the mirror pod was created anew
                        raise RefusedError(409, str(error)) from error
                raise

        self._with_retries(f"{what} of pod {namespace}/{name}", patch)

    def stop_retries(self) -> None:
        self._api.retries_stopped.set()

    def check(self) -> None:
        """Raise UnavailableError or Error(POLICY) if the API server does not answer, or refuses.

        No request is made while the watches work, as runtimes call STATUS every few seconds.
        """
        if self._caches and all(cache.is_healthy for cache in self._caches):
            return
        with request_errors(self._api, "pods and networks"):
            self._api.get("/version", timeouts=self._policy.first)

    def may(self, right: Right) -> bool:
        """Whether the API server allows that to this account.

        Raises UnavailableError, or Error(POLICY) if the review itself is refused.
        """
        with request_errors(self._api, str(right)):
            return reviews.may(self._api, right, timeouts=self._policy.first)

    def serves_networks(self) -> bool:
        """Whether the cluster has the resource NetworkAttachmentDefinition. Raises as `may` does."""
        try:
            with request_errors(self._api, "NetworkAttachmentDefinitions"):
                found = self._api.get(_NADS_GROUP, timeouts=self._policy.first)
        except NotFoundError:
            return False
        return any(each.get("name") == _NADS.rpartition("/")[2] for each in found.get("resources") or ())

    def wait_synced(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until both caches have their first list; return whether they do."""
        end = time.monotonic() + timeout
        return all(cache.synced.wait(max(0.0, end - time.monotonic())) for cache in self._caches)

    def close(self) -> None:
        self._events.flush()
        self._api.close()
        self._events.join()
        for cache in self._caches:
            cache.join()
        self._slices.join()

    def _get(self, path: str, namespace: str, name: str, kind: str) -> Object:
        url = _path(path, namespace, name)
        what = Thing(kind, f"{namespace}/{name}")
        return self._with_retries(what, lambda timeouts: self._api.get(url, timeouts=timeouts))

    def _with_retries(self, what: str | Thing, request: Callable[[Timeouts], T]) -> T:
        """Call `request`, retry it until `retry_until`, return its result. Raises Error about `what`."""
        until, stopped = RETRY_UNTIL.get(), self._api.retries_stopped
        with request_errors(self._api, what), step("ask the API server", what=str(what)):
            return with_retries(request, what=str(what), until=until, policy=self._policy, stopped=stopped)


def _checked_uid(pod: Object, uid: str) -> Object:
    """Return the pod, trimmed, if `uid` is its UID. Raises NotFoundError."""
    metadata = pod["metadata"]
    if not is_pod(pod, uid):
        text = f"its UID in the API server is {metadata.get('uid')}, not {uid}"
        raise NotFoundError(text, where=Thing("pod", f"{metadata['namespace']}/{metadata['name']}"))
    return trim_pod(pod)


def _path(path: str, namespace: str, name: str) -> str:
    return path.format(namespace=quote(namespace, safe=""), name=quote(name, safe=""))


def trim_pod(pod: Object) -> Object:
    """Return what networking reads of a pod; of its volumes only the one for sockets."""
    spec = pick(pod.get("spec"), "nodeName", "hostNetwork", "resourceClaims")
    spec["containers"] = [_container(container) for container in (pod.get("spec") or {}).get("containers") or ()]
    if volumes := _for_sockets((pod.get("spec") or {}).get("volumes")):
        spec["volumes"] = volumes
    return {
        "metadata": _metadata(pod, "deletionTimestamp", "labels"),
        "spec": spec,
        "status": pick(pod.get("status"), "phase", "resourceClaimStatuses", "extendedResourceClaimStatus"),
    }


def _container(container: Object) -> Object:
    trimmed = pick(container, "name", "resources")
    mounts = _for_sockets(container.get("volumeMounts"))
    return {**trimmed, "volumeMounts": mounts} if mounts else trimmed


def _for_sockets(volumes: list[Object] | None) -> list[Object]:
    return [volume for volume in volumes or () if volume.get("name") == SOCKETS_VOLUME]


def trim_network(network: Object) -> Object:
    """Return what is read of a NetworkAttachmentDefinition: names, annotations and spec."""
    return {"metadata": _metadata(network), "spec": network.get("spec") or {}}


def _metadata(value: Object, *more: str) -> Object:
    kept = pick(value["metadata"], "name", "namespace", "uid", "resourceVersion", *more)
    annotations = dict(value["metadata"].get("annotations") or {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {**kept, "annotations": annotations}
