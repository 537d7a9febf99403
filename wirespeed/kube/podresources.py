"""The kubelet's pod-resources service: which devices it allocated to the containers of a pod."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from wirespeed.kube import rpc
from wirespeed.kube.proto import podresources_pb2 as pb

_TIMEOUT = 5.0  # seconds; the kubelet answers from memory
_SERVICE = pb.DESCRIPTOR.services_by_name["PodResourcesLister"]


class Allocation(NamedTuple):
    """A device that the kubelet allocated to a container."""

    namespace: str
    pod: str
    container: str
    resource: str
    device: str


class PodResources:
    """A client of the service at `socket`, for any thread. Its channel is replaced when the kubelet restarts."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def devices(self, namespace: str, name: str) -> dict[str, list[str]]:
        """Return the pod's sorted device ids by resource name. Raises Error(TRY_AGAIN) without an answer in 5 s."""
        pod = self._ask(f"devices of pod {namespace}/{name}", lambda client: _get(client, namespace, name))
        found: dict[str, set[str]] = {}
        for container in pod.containers if pod else ():
            for entry in container.devices:  # one entry per NUMA node
                found.setdefault(entry.resource_name, set()).update(entry.device_ids)
        return {resource: sorted(ids) for resource, ids in found.items()}

    def allocations(self) -> list[Allocation]:
        """Return the devices of all pods. Raises Error(TRY_AGAIN) as `devices` does."""
        return [
            Allocation(pod.namespace, pod.name, container.name, entry.resource_name, device)
            for pod in self._ask("devices of all pods", _list)
            for container in pod.containers
            for entry in container.devices
            for device in entry.device_ids
        ]

    def allocatable(self) -> set[str] | None:
        """Return resources with healthy devices, None if the kubelet lacks the call. Raises Error(TRY_AGAIN)."""
        answer = self._ask("resources of device plugins", _allocatable)
        return None if answer is None else {entry.resource_name for entry in answer.devices}

    def check(self) -> None:
        """Raise Error(TRY_AGAIN) if the kubelet does not answer."""
        self._ask("devices of pods", lambda client: _get(client, "", ""))  # for no pod, as any answer will do

    def close(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _current(self, *, failed: grpc.Channel | None = None) -> grpc.Channel:
        """Return the channel; create it if there is none yet, or the current one is the one that failed."""
        with self._lock:
            if self._channel is None or self._channel is failed:
                self._channel = rpc.channel(str(self.socket), options=rpc.OPTIONS)
            return self._channel

    def _ask(self, what: str, call: Callable[[rpc.Client], Any]) -> Any:
        """Call, again on a new channel if the old one missed that the kubelet is back. Raises Error(TRY_AGAIN)."""
        channel = self._current()
        try:
            try:
                return call(rpc.Client(channel, _SERVICE))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return call(rpc.Client(self._current(failed=channel), _SERVICE))
        except grpc.RpcError as error:
            raise rpc.failed(f"the kubelet does not answer on {self.socket}", error, where=what) from error


def _list(client: rpc.Client) -> Any:
    return client.List(pb.ListPodResourcesRequest(), timeout=_TIMEOUT).pod_resources


def _allocatable(client: rpc.Client) -> Any:
    """Return the answer; None if the kubelet lacks the call, or has its feature gate off ("... disabled")."""
    try:
        return client.GetAllocatableResources(pb.AllocatableResourcesRequest(), timeout=_TIMEOUT)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED or "disabled" in (error.details() or ""):
            return None
        raise


def _get(client: rpc.Client, namespace: str, name: str) -> Any:
    """Return the pod's PodResources, None if the kubelet does not know the pod."""
    try:
        request = pb.GetPodResourcesRequest(pod_name=name, pod_namespace=namespace)
        return client.Get(request, timeout=_TIMEOUT).pod_resources
    except grpc.RpcError as error:
        text = error.details() or ""
        # A kubelet whose feature gate KubeletPodResourcesGet is off answers UNKNOWN: "... Get method disabled".
        if error.code() is grpc.StatusCode.UNIMPLEMENTED or "disabled" in text:
            return next((pod for pod in _list(client) if (pod.namespace, pod.name) == (namespace, name)), None)
        if error.code() is grpc.StatusCode.NOT_FOUND or "not found" in text:
            return None
        raise
