"""A cluster behind an API server: this node's pods and all networks from watch caches, status by one PATCH."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube.cluster import NETWORK_STATUS, NotFoundError, UnavailableError, is_pod

log = logging.getLogger(__name__)

_PODS = "/api/v1/pods"
_POD = "/api/v1/namespaces/{namespace}/pods/{name}"
_NADS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
_NAD = "/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"

_TIMEOUT = (2.0, 4.0)  # seconds to connect, and between two reads, of a request that a pod waits for
_LIST_TIMEOUT = (5.0, 30.0)
_WATCH = 300  # seconds that a watch lasts, plus up to as many again, so that watches do not end together
_CONFLICTS = 5  # how often a PATCH that met another writer is made
_BACKOFF = (0.2, 30.0)  # seconds between attempts to watch: the first, and at most

Key = tuple[str, str]  # namespace, name


class _RefusedError(Exception):
    """The API server answered with a status that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class _UnreachableError(Exception):
    """No whole answer from the API server in time."""


class ApiCluster:
    """Pods and networks of the API server that `kubeconfig` names; "" is the in-cluster service account.

    With `watch`, the pods of `node_name` ("" for all) and all NetworkAttachmentDefinitions are kept in
    memory, trimmed to what networking reads; without, each lookup is a request.
    Raises CniError(INVALID_CONFIG) when there is no usable configuration.
    """

    def __init__(self, kubeconfig: str = "", node_name: str = "", *, watch: bool = True) -> None:
        self._api = _Api(kubeconfig)
        node = {"fieldSelector": f"spec.nodeName={node_name}"} if node_name else {}
        self._closing = threading.Event()
        self._pods = WatchCache(self._api, _PODS, node, trim_pod, self._closing)
        self._networks = WatchCache(self._api, _NADS, {}, trim_network, self._closing)
        self._caches = (self._pods, self._networks) if watch else ()
        for cache in self._caches:
            cache.start()

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        cached = self._pods.get(namespace, name)
        if cached is not None and is_pod(cached, uid):
            return cached
        # The runtime may be ahead of the watch; a pod of the same name may just have been replaced.
        what = f"pod {namespace}/{name}"
        pod = trim_pod(self._get(_POD, namespace, name, what))
        if not is_pod(pod, uid):
            raise NotFoundError(f"{what}: its UID in the API server is {pod['metadata'].get('uid')}, not {uid}")
        return pod

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        cached = self._networks.get(namespace, name)
        if cached is not None:
            return cached
        return trim_network(self._get(_NAD, namespace, name, f"NetworkAttachmentDefinition {namespace}/{name}"))

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        what = f"network-status of pod {namespace}/{name}"
        metadata: dict[str, Any] = {"annotations": {NETWORK_STATUS: json.dumps(status, indent=4)}}
        cached = self._pods.get(namespace, name)
        if cached is not None and is_pod(cached, uid):
            uid = cached["metadata"].get("uid") or uid  # a static pod's mirror has another one than the runtime's
        if uid:
            metadata["uid"] = uid  # a precondition: a pod of the same name that came after is refused with 422
        for attempt in range(_CONFLICTS):
            try:
                return self._api.patch(_POD + "/status", namespace, name, {"metadata": metadata})
            except _RefusedError as error:
                if error.status == 409 and attempt + 1 < _CONFLICTS and not self._closing.wait(_jitter(0.01)):
                    continue
                raise _explained(what, error) from error
            except _UnreachableError as error:
                raise _unreachable(what, error) from error
        return None

    def check(self) -> None:
        """Raise UnavailableError or CniError(POLICY) where the API server does not answer.

        It is not asked while the watches are at work: runtimes want to know every few seconds.
        """
        if self._caches and all(cache.at_work for cache in self._caches):
            return
        what = "pods and networks"
        try:
            self._api.get("/version")
        except _RefusedError as error:
            raise _explained(what, error) from error
        except _UnreachableError as error:
            raise _unreachable(what, error) from error

    def wait_synced(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until both caches hold a first list; whether they do."""
        return all(cache.synced.wait(timeout) for cache in self._caches)

    def close(self) -> None:
        self._closing.set()
        for cache in self._caches:
            cache.stop()
        self._api.close()

    def _get(self, path: str, namespace: str, name: str, what: str) -> dict[str, Any]:
        try:
            return self._api.get(path, {"namespace": namespace, "name": name})
        except _RefusedError as error:
            raise _explained(what, error) from error
        except _UnreachableError as error:
            raise _unreachable(what, error) from error


def _explained(what: str, error: _RefusedError) -> CniError:
    if error.status == 404:
        return NotFoundError(f"{what}: the API server has no such object")
    if error.status in (401, 403):
        return CniError(Code.POLICY, f"{what}: the API server forbids it: {error}")
    if error.status in (409, 429) or error.status >= 500:
        return UnavailableError(f"{what}: the API server cannot answer now: {error}")
    return CniError(Code.POLICY, f"{what}: the API server refuses: {error}")


def _unreachable(what: str, error: _UnreachableError) -> CniError:
    return UnavailableError(f"{what}: no answer from the API server: {error}")


class WatchCache:
    """The objects of one resource, kept current by one thread: list, then watch from there, again and again."""

    def __init__(
        self,
        api: _Api,
        path: str,
        query: Mapping[str, str],
        trim: Callable[[dict[str, Any]], dict[str, Any]],
        closing: threading.Event,
    ) -> None:
        self.synced = threading.Event()
        self._api, self._path, self._query, self._trim, self._closing = api, path, query, trim, closing
        self._changed = threading.Condition()
        self._objects: dict[Key, dict[str, Any]] = {}
        self._version = ""  # where the next watch goes on; "" is: list first
        self._failures = 0
        self._stream: _Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; `closing` is set before."""
        with self._changed:
            stream = self._stream
        if stream is not None:
            stream.abort()
        self._thread.join()

    @property
    def at_work(self) -> bool:
        """Whether the objects are known and the last attempt to watch them has not failed."""
        return self.synced.is_set() and not self._failures

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, None when it is not in the cache (yet)."""
        with self._changed:
            return self._objects.get((namespace, name))

    def wait_for(self, condition: Callable[[Mapping[Key, dict[str, Any]]], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds until the objects meet the condition; whether they do."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._objects), timeout)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                if not self._version:
                    self._list()
                if self._watch():
                    self._failures = 0
                    continue
            except _UnreachableError as error:
                self._complain(error)
            except (_RefusedError, msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
                self._version = ""  # most often 410: too long ago for a watch to go on from
                self._complain(error)
            self._pause()

    def _complain(self, error: Exception) -> None:
        if not self._closing.is_set():
            log.warning("watch of %s: %s; going on with what is known", self._path, error)

    def _pause(self) -> None:
        self._failures += 1
        first, most = _BACKOFF
        self._closing.wait(_jitter(min(most, first * 2.0 ** min(self._failures - 1, 16))))

    def _list(self) -> None:
        found: dict[Key, dict[str, Any]] = {}
        query = {**self._query, "limit": "500"}
        while True:
            page = self._api.get(self._path, query=query, timeout=_LIST_TIMEOUT)
            found |= {_key(item): self._trim(item) for item in page.get("items") or ()}
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        with self._changed:
            self._objects = found
            self._version = metadata["resourceVersion"]
            self._changed.notify_all()
        self.synced.set()

    def _watch(self) -> int:
        """Take events until the API server ends the watch; how many there were."""
        lasts = _WATCH + int(_jitter(_WATCH))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(lasts),
        }
        stream = self._api.stream(self._path, query, timeout=(5.0, lasts + 30.0))
        with self._changed:
            self._stream = stream
        taken = 0
        try:
            if not self._closing.is_set():  # set before stop() looked for the stream, or stop() aborts it
                for taken, line in enumerate(stream.lines(), start=1):  # noqa: B007
                    self._take(msgspec.json.decode(line))
                    self._failures = 0
        finally:
            with self._changed:
                self._stream = None
            stream.close()
        return taken

    def _take(self, event: dict[str, Any]) -> None:
        kind, value = event["type"], event["object"]
        if kind == "ERROR":
            raise _RefusedError(int(value.get("code") or 500), str(value.get("message")))
        with self._changed:
            self._version = value["metadata"]["resourceVersion"]
            if kind in ("ADDED", "MODIFIED"):
                self._objects[_key(value)] = self._trim(value)
            elif kind == "DELETED":
                self._objects.pop(_key(value), None)
            self._changed.notify_all()


def _key(value: dict[str, Any]) -> Key:
    return value["metadata"]["namespace"], value["metadata"]["name"]


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 — spreads requests, guards nothing


def _picked(value: Mapping[str, Any] | None, *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value} if value else {}


def trim_pod(pod: dict[str, Any]) -> dict[str, Any]:
    """What networking reads of a pod: no managed fields, volumes, environments, probes, conditions."""
    metadata = _picked(
        pod["metadata"], "name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels"
    )
    annotations = dict(pod["metadata"].get("annotations") or {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    spec = _picked(pod.get("spec"), "nodeName", "hostNetwork", "resourceClaims")
    spec["containers"] = [
        _picked(container, "name", "resources") for container in (pod.get("spec") or {}).get("containers") or ()
    ]
    return {
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
        "status": _picked(pod.get("status"), "phase", "resourceClaimStatuses", "extendedResourceClaimStatus"),
    }


def trim_network(network: dict[str, Any]) -> dict[str, Any]:
    """What is read of a NetworkAttachmentDefinition: names, annotations and spec."""
    metadata = _picked(network["metadata"], "name", "namespace", "uid", "resourceVersion")
    annotations = dict(network["metadata"].get("annotations") or {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {"metadata": {**metadata, "annotations": annotations}, "spec": network.get("spec") or {}}


class _Api:
    """Requests to the API server: the client library's configuration and connections, JSON by msgspec.

    Raises _RefusedError, _UnreachableError.
    """

    def __init__(self, kubeconfig: str) -> None:
        import urllib3  # noqa: PLC0415 — with the next, 0.2 s that only a node with an API server pays
        from kubernetes import client  # noqa: PLC0415

        configuration = client.Configuration()
        _configure(kubeconfig, configuration)
        configuration.retries = False  # each try is ours: the library's own would multiply the timeouts
        configuration.keep_alive = True  # a watch over a dead path is noticed
        self._client = client.ApiClient(configuration)
        self._client.user_agent = "wirespeed"
        self._transport_errors = (urllib3.exceptions.HTTPError, client.ApiException, OSError)
        self._stale = (urllib3.exceptions.ProtocolError, ConnectionError)

    def get(
        self,
        path: str,
        fill: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> dict[str, Any]:
        """The object or list at `path`, with `fill` for its {names}."""
        answer = self._request("GET", path, fill or {}, query=query or {}, timeout=timeout)
        try:
            value = msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise _UnreachableError(f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise _UnreachableError(f"expected an object, got {type(value).__name__}")
        return value

    def patch(self, path: str, namespace: str, name: str, body: dict[str, Any]) -> None:
        """A JSON merge patch (RFC 7386)."""
        self._request("PATCH", path, {"namespace": namespace, "name": name}, body=body, timeout=_TIMEOUT)

    def stream(self, path: str, query: Mapping[str, str], *, timeout: tuple[float, float]) -> _Stream:
        """A watch."""
        try:
            response = self._call("GET", path, {}, query=query, timeout=timeout)
            if response.status == 200:
                return _Stream(response, self._transport_errors)
            text = response.read(65536)
            response.close()
        except self._transport_errors as error:
            raise _UnreachableError(_text(error)) from error
        raise _refused(response, text)

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, path: str, fill: Mapping[str, str], **how: Any) -> bytes:
        """The body of a successful answer."""
        try:
            try:
                response = self._call(method, path, fill, **how)
            except self._stale:
                # The server closed an idle connection as we used it. Both methods may be repeated.
                response = self._call(method, path, fill, **how)
            text = bytes(response.data)
        except self._transport_errors as error:
            raise _UnreachableError(_text(error)) from error
        if not 200 <= response.status < 300:
            raise _refused(response, text)
        return text

    def _call(
        self,
        method: str,
        path: str,
        fill: Mapping[str, str],
        *,
        timeout: tuple[float, float],
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Any:
        """The urllib3 response, its body unread."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        request: Sequence[Any] = self._client.param_serialize(
            method, path, dict(fill), list((query or {}).items()), headers, auth_settings=["BearerToken"]
        )
        url, headers = request[1], request[2]
        text = None if body is None else json.dumps(body)
        return self._client.call_api(method, url, headers, text, _request_timeout=timeout).response


class _Stream:
    """The lines of a watch's answer; `abort` may be called from another thread and ends them."""

    def __init__(self, response: Any, transport_errors: tuple[type[BaseException], ...]) -> None:
        self._response = response
        self._transport_errors = transport_errors
        self._aborted = False

    def lines(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if line.strip())
        except self._transport_errors as error:
            if not self._aborted:
                raise _UnreachableError(_text(error)) from error

    def abort(self) -> None:
        self._aborted = True
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            log.debug("watch ended as it was being stopped")

    def close(self) -> None:
        self._response.close()


def _configure(kubeconfig: str, configuration: Any) -> None:
    """Fill the client's configuration. Raises CniError(INVALID_CONFIG)."""
    import yaml  # noqa: PLC0415 — the next line loads it anyway
    from kubernetes import config  # noqa: PLC0415

    where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster service account"
    try:
        if kubeconfig:
            config.load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
        else:
            config.load_incluster_config(configuration)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        hint = "" if kubeconfig else "; set cluster.kubeconfig or cluster.manifests in the agent's configuration"
        raise CniError(Code.INVALID_CONFIG, f"API server from the {where}: {reason}{hint}") from error


def _refused(response: Any, text: bytes) -> _RefusedError:
    """What a Status object says, in one line."""
    try:
        status = msgspec.json.decode(text)
        message = str(status["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        message = str(response.reason or "")
    return _RefusedError(int(response.status), " ".join(message.split())[:500])


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
