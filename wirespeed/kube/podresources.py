"""The kubelet's pod-resources service: which devices it allocated to the containers of a pod."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import rpc
from wirespeed.kube.proto import podresources_pb2 as pb

_TIMEOUT = 5.0  # seconds; the kubelet answers from memory
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),  # the kubelet's own limit for a List answer
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, despite the backoff of an old one
)

_SERVICE = pb.DESCRIPTOR.services_by_name["PodResourcesLister"]


class Given(NamedTuple):
    """A device that the kubelet allocated to a container."""

    namespace: str
    pod: str
    container: str
    resource: str
    device: str


class PodResources:
    """A client of the service at `socket` (`<kubelet>/pod-resources/kubelet.sock`); safe from any thread.

    One channel is kept, and replaced after a restart of the kubelet.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def devices(self, namespace: str, name: str) -> dict[str, list[str]]:
        """Return the sorted device ids of the pod by resource name, of all its containers together.

        Empty for a pod that the kubelet does not know, or without devices.
        Raises CniError(TRY_AGAIN_LATER) if the kubelet does not answer within 5 s.
        """
        try:
            pod = self._ask(lambda client: _get(client, namespace, name))
        except grpc.RpcError as error:
            raise self._no_answer(f"devices of pod {namespace}/{name}", error) from error
        found: dict[str, set[str]] = {}
        for container in pod.containers if pod else ():
            for entry in container.devices:  # one entry per NUMA node
                found.setdefault(entry.resource_name, set()).update(entry.device_ids)
        return {resource: sorted(ids) for resource, ids in found.items()}

    def given(self) -> list[Given]:
        """Return the devices of all pods. Raises CniError(TRY_AGAIN_LATER) as `devices` does."""
        try:
            listed = self._ask(lambda client: client.List(pb.ListPodResourcesRequest(), timeout=_TIMEOUT))
        except grpc.RpcError as error:
            raise self._no_answer("devices of all pods", error) from error
        return [
            Given(pod.namespace, pod.name, container.name, entry.resource_name, device)
            for pod in listed.pod_resources
            for container in pod.containers
            for entry in container.devices
            for device in entry.device_ids
        ]

    def allocatable(self) -> set[str] | None:
        """Return the names of device plugins' resources with healthy devices.

        None if the kubelet does not support the call. Raises CniError(TRY_AGAIN_LATER) as `devices` does.
        """
        try:
            told = self._ask(_allocatable)
        except grpc.RpcError as error:
            raise self._no_answer("resources of device plugins", error) from error
        return None if told is None else {entry.resource_name for entry in told.devices}

    def check(self) -> None:
        """Raise CniError(TRY_AGAIN_LATER) if the kubelet does not answer."""
        try:
            self._ask(lambda client: _get(client, "", ""))  # for no pod, as any answer will do
        except grpc.RpcError as error:
            raise self._no_answer("devices of pods", error) from error

    def close(self) -> None:
        """Close the channel."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _no_answer(self, what: str, error: grpc.RpcError) -> CniError:
        reason = f"{error.code().name}: {error.details()}"
        return CniError(Code.TRY_AGAIN_LATER, f"{what}: the kubelet does not answer on {self.socket}: {reason}")

    def _current(self, *, failed: grpc.Channel | None = None) -> grpc.Channel:
        """Return the channel; create it if there is none yet, or the current one is the one that failed."""
        with self._lock:
            if self._channel is None or self._channel is failed:
                self._channel = rpc.channel(str(self.socket), options=_OPTIONS)
            return self._channel

    def _ask(self, call: Callable[[rpc.Client], Any]) -> Any:
        """Make the call; repeat it on a new channel if the old one has not noticed yet that the kubelet is back."""
        channel = self._current()
        try:
            return call(rpc.Client(channel, _SERVICE))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return call(rpc.Client(self._current(failed=channel), _SERVICE))


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
            listed = client.List(pb.ListPodResourcesRequest(), timeout=_TIMEOUT).pod_resources
            return next((pod for pod in listed if (pod.namespace, pod.name) == (namespace, name)), None)
        if error.code() is grpc.StatusCode.NOT_FOUND or "not found" in text:
            return None
        raise
