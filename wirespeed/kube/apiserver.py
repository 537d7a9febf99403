"""A cluster behind an API server: this node's pods and all networks in watch caches, status by one PATCH."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube.api import Api, Patience, RefusedError, UnreachableError
from wirespeed.kube.cluster import (
    NETWORK_STATUS,
    SOCKETS_VOLUME,
    Event,
    NotFoundError,
    UnavailableError,
    asking_ends,
    is_pod,
)
from wirespeed.kube.events import Events
from wirespeed.kube.retry import Verdict, Waits, persist, verdict
from wirespeed.kube.slices import Slices
from wirespeed.kube.watch import Listener, WatchCache, listed

_PODS = "/api/v1/pods"
_POD = "/api/v1/namespaces/{namespace}/pods/{name}"
_NADS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
_NAD = "/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"
_CLAIM = "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"

_LIST_WAITS = Patience(connect=2.0, read=10.0, total=30.0)
T = TypeVar("T")

_WAITS = Waits()


class ApiCluster:
    """Pods and networks from the API server in `kubeconfig`; "" is the in-cluster service account.

    With `watch`, the pods of `node_name` ("" for all) and all NetworkAttachmentDefinitions are cached in memory,
    trimmed to what networking reads; without it, each lookup is a request. `waits` has the timeouts of requests,
    which are retried until the moment of `asked_until`. Raises CniError(INVALID_CONFIG) without a usable
    configuration.
    """

    def __init__(
        self, kubeconfig: str = "", node_name: str = "", *, watch: bool = True, waits: Waits = _WAITS
    ) -> None:
        self._waits = waits
        self._api = Api(kubeconfig)
        node = {"fieldSelector": f"spec.nodeName={node_name}"} if node_name else {}
        self._pods = WatchCache(self._api, _PODS, node, trim_pod)
        self._networks = WatchCache(self._api, _NADS, {}, trim_network)
        self._caches = (self._pods, self._networks) if watch else ()
        self._slices = Slices(self._api, node_name, watch=watch)
        self._events = Events(self._api, node_name)
        for cache in self._caches:
            cache.start()

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        cached = self._pods.get(namespace, name)
        if cached is not None and uid and is_pod(cached, uid):
            return cached
        # The runtime may be ahead of the watch, and this a new pod with the name of an earlier one.
        return self._asked_pod(namespace, name, uid)

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods of all nodes, as they are now. Raises UnavailableError, or CniError if it is refused."""
        with self._asking("pods"):
            return listed(self._api, _PODS, {}, trim_pod, patience=_LIST_WAITS)[0]

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        cached = self._networks.get(namespace, name)
        if cached is not None:
            return cached
        return trim_network(self._get(_NAD, namespace, name, f"NetworkAttachmentDefinition {namespace}/{name}"))

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        return self._get(_CLAIM, namespace, name, f"ResourceClaim {namespace}/{name}")

    def slices(self, driver: str, *, fresh: bool = False) -> list[dict[str, Any]]:
        what = f"ResourceSlices of driver {driver}"
        return self._asked(what, lambda patience: self._slices.of(driver, fresh=fresh, patience=patience))

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        annotations = {NETWORK_STATUS: json.dumps(status, indent=4)}
        self._patch(self.pod(namespace, name, uid), uid, "network-status", lambda _: {"annotations": annotations})

    def annotate(
        self, namespace: str, name: str, uid: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        def changed(pod: dict[str, Any]) -> dict[str, Any]:
            metadata = pod["metadata"]  # its version is a precondition: the change is based on that version
            return {"resourceVersion": metadata["resourceVersion"], "annotations": change(metadata["annotations"])}

        self._patch(self.pod(namespace, name, uid), uid, "annotations", changed)

    def event(self, event: Event) -> None:
        self._events.tell(event)

    def on_pod_change(self, listener: Listener) -> None:
        self._pods.listen(listener)

    def _patch(
        self, pod: dict[str, Any], uid: str, what: str, metadata: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        """Patch the metadata of a pod with what `metadata` returns for it; repeat that after a conflict.

        A patch whose answer was lost may have been applied. It is idempotent, so it is sent again.
        """
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = _path(_POD, namespace, name)
        now: dict[str, Any] | None = pod

        def patch(patience: Patience) -> None:
            nonlocal now
            now = now or self._is(trim_pod(self._api.get(path, patience=patience)), uid)
            # The UID is a precondition. It is that of the API: the runtime knows a static pod by another one.
            mine = now["metadata"]["uid"]
            try:
                self._api.patch(path + "/status", {"metadata": {"uid": mine, **metadata(now)}}, patience=patience)
            except RefusedError as error:
                now = None
                if error.status == 422:
                    now = self._is(trim_pod(self._api.get(path, patience=patience)), uid)
                    if now["metadata"]["uid"] != mine:  # the mirror pod was created anew
                        raise RefusedError(409, str(error)) from error
                raise

        self._asked(f"{what} of pod {namespace}/{name}", patch)

    def hasten(self) -> None:
        self._api.ending.set()

    def check(self) -> None:
        """Raise UnavailableError or CniError(POLICY) if the API server does not answer, or refuses.

        No request is made while the watches work, as runtimes call STATUS every few seconds.
        """
        if self._caches and all(cache.at_work for cache in self._caches):
            return
        with self._asking("pods and networks"):
            self._api.get("/version", patience=self._waits.first)

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

    def _asked_pod(self, namespace: str, name: str, uid: str) -> dict[str, Any]:
        return self._is(trim_pod(self._get(_POD, namespace, name, f"pod {namespace}/{name}")), uid)

    def _is(self, pod: dict[str, Any], uid: str) -> dict[str, Any]:
        """Return the pod if `uid` is its UID. Raises NotFoundError."""
        if is_pod(pod, uid):
            return pod
        metadata = pod["metadata"]
        what = f"pod {metadata['namespace']}/{metadata['name']}"
        raise NotFoundError(f"{what}: its UID in the API server is {metadata.get('uid')}, not {uid}")

    def _get(self, path: str, namespace: str, name: str, what: str) -> dict[str, Any]:
        return self._asked(what, lambda patience: self._api.get(_path(path, namespace, name), patience=patience))

    def _asked(self, what: str, ask: Callable[[Patience], T]) -> T:
        """Call `ask`, retry it until `asked_until`, return its result. Raises CniError that begins with `what`."""
        until, ending = asking_ends(), self._api.ending
        with self._asking(what):
            return persist(ask, what=what, until=until, waits=self._waits, ending=ending)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn errors raised inside into CniErrors that begin with `what`."""
        try:
            yield
        except RefusedError as error:
            raise self._explained(what, error) from error
        except UnreachableError as error:
            raise _unreachable(what, error) from error

    def _explained(self, what: str, error: RefusedError) -> CniError:
        if error.status == 404:
            return NotFoundError(f"{what}: the API server has no such object")
        if error.status == 401:  # may be temporary: credentials are replaced at run time
            who = self._api.credentials.label
            return UnavailableError(f"{what}: the API server does not know us by the {who}: {error}")
        if error.status == 403:
            return CniError(Code.POLICY, f"{what}: the API server forbids it: {error}")
        if verdict(error) is Verdict.AGAIN:
            return UnavailableError(f"{what}: the API server cannot answer now: {error}{_often(error)}")
        return CniError(Code.POLICY, f"{what}: the API server refuses: {error}")


def _unreachable(what: str, error: UnreachableError) -> CniError:
    return UnavailableError(f"{what}: no answer from the API server: {error}{_often(error)}")


def _often(error: RefusedError | UnreachableError) -> str:
    return f" (asked {error.attempts} times)" if error.attempts > 1 else ""


def _path(path: str, namespace: str, name: str) -> str:
    return path.format(namespace=quote(namespace, safe=""), name=quote(name, safe=""))


def _picked(value: Mapping[str, Any] | None, *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value} if value else {}


def trim_pod(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what networking reads of a pod: no managed fields, environments, probes, conditions, and of its
    volumes only the one for sockets.
    """
    metadata = _picked(
        pod["metadata"], "name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels"
    )
    annotations = dict(pod["metadata"].get("annotations") or {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    spec = _picked(pod.get("spec"), "nodeName", "hostNetwork", "resourceClaims")
    spec["containers"] = [_container(container) for container in (pod.get("spec") or {}).get("containers") or ()]
    if volumes := _for_sockets((pod.get("spec") or {}).get("volumes")):
        spec["volumes"] = volumes
    return {
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
        "status": _picked(pod.get("status"), "phase", "resourceClaimStatuses", "extendedResourceClaimStatus"),
    }


def _container(container: dict[str, Any]) -> dict[str, Any]:
    trimmed = _picked(container, "name", "resources")
    mounts = _for_sockets(container.get("volumeMounts"))
    return {**trimmed, "volumeMounts": mounts} if mounts else trimmed


def _for_sockets(volumes: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [volume for volume in volumes or () if volume.get("name") == SOCKETS_VOLUME]


def trim_network(network: dict[str, Any]) -> dict[str, Any]:
    """Return what is read of a NetworkAttachmentDefinition: names, annotations and spec."""
    metadata = _picked(network["metadata"], "name", "namespace", "uid", "resourceVersion")
    annotations = dict(network["metadata"].get("annotations") or {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {"metadata": {**metadata, "annotations": annotations}, "spec": network.get("spec") or {}}
