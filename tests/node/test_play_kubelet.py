"""The kubelet of `wirespeed play` and of these tests: it treats device plugins as a real one does."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node.conftest import PATIENCE
from wirespeed.errors import Error, Kind
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration
from wirespeed.kube.proto import podresources_pb2 as pods
from wirespeed.play.kubelet import Kubelet

LOCAL = [("grpc.use_local_subchannel_pool", 1)]


class Plugin:
    """A device plugin that offers the healthy devices `ids`; `offer` changes them. It records the calls it gets."""

    def __init__(
        self,
        folder: Path,
        resource: str,
        *ids: str,
        prefers: list[str] | None = None,
        pre_start: bool = False,
        numa: int | None = None,
        registry: str = "device-plugins",
        kind: str = "DevicePlugin",
    ) -> None:
        self.resource, self.prefers, self.numa, self.kind = resource, prefers, numa, kind
        self.options = dp.DevicePluginOptions(
            get_preferred_allocation_available=prefers is not None, pre_start_required=pre_start
        )
        self.socket = folder / registry / f"{resource.replace('/', '_')}.sock"
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.notified: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lists: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.offer(*ids)

    def __enter__(self) -> Plugin:
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(
            self._threads,
            handlers=[
                rpc.handler(dp.DESCRIPTOR.services_by_name["DevicePlugin"], self),
                rpc.handler(registration.DESCRIPTOR.services_by_name["Registration"], self),
            ],
        )
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lists.put(None)
        self._server.stop(None).wait()
        self._threads.shutdown()

    def offer(self, *ids: str, health: str = "Healthy") -> None:
        """Send this device list to the kubelet instead."""
        devices = [dp.Device(ID=key, health=health) for key in ids]
        if self.numa is not None:
            for device in devices:
                device.topology.nodes.add(ID=self.numa)
        self._lists.put(dp.ListAndWatchResponse(devices=devices))

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return self.options

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:
        while (offered := self._lists.get()) is not None:
            yield offered

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:
        self.calls.put(request)
        return dp.PreferredAllocationResponse(
            container_responses=[dp.ContainerPreferredAllocationResponse(deviceIDs=self.prefers)]
        )

    def Allocate(self, request: Any, context: Any) -> Any:
        self.calls.put(request)
        if request.container_requests[0].devices_ids[0] == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "it is broken")
        if request.container_requests[0].devices_ids[0] == "odd":
            return dp.AllocateResponse()
        ids = ",".join(request.container_requests[0].devices_ids)
        return dp.AllocateResponse(container_responses=[dp.ContainerAllocateResponse(envs={"IDS": ids})])

    def PreStartContainer(self, request: Any, context: Any) -> Any:
        self.calls.put(request)
        if "lost" in request.devices_ids:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is lost")
        return dp.PreStartContainerResponse()

    def GetInfo(self, request: Any, context: Any) -> Any:
        return registration.PluginInfo(
            type=self.kind, name=self.resource, endpoint=str(self.socket), supported_versions=["v1beta1"]
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        self.notified.put(request)
        return registration.RegistrationStatusResponse()


def register(kubelet: Kubelet, plugin: Plugin, **fields: Any) -> None:
    """Register the plugin with the kubelet."""
    request = {
        "version": "v1beta1",
        "endpoint": plugin.socket.name,
        "resource_name": plugin.resource,
        "options": plugin.options,
    }
    with rpc.channel(str(kubelet.folder / "device-plugins/kubelet.sock"), options=LOCAL) as channel:
        client: Any = rpc.Client(channel, dp.DESCRIPTOR.services_by_name["Registration"])
        client.Register(dp.RegisterRequest(**{**request, **fields}), timeout=PATIENCE)


@contextlib.contextmanager
def registered(kubelet: Kubelet, plugin: Plugin) -> Iterator[Plugin]:
    """A running, registered plugin whose devices the kubelet knows."""
    with plugin:
        register(kubelet, plugin)
        kubelet.wait_for(plugin.resource, 1, PATIENCE)
        yield plugin


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path)
    kubelet.start()
    yield kubelet
    kubelet.stop()


def health(kubelet: Kubelet) -> dict[str, list[tuple[str, str]]]:
    return {
        resource: [(device.ID, device.health) for device in devices]
        for resource, devices in kubelet.resources().items()
    }


# Registration


def test_registered_plugin_is_watched(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a2", "a1")) as plugin:
        assert health(kubelet) == {"acme.io/a": [("a1", "Healthy"), ("a2", "Healthy")]}
        plugin.offer("a3", health="Unhealthy")
        kubelet.wait_until(lambda: health(kubelet) == {"acme.io/a": [("a3", "Unhealthy")]}, PATIENCE, "the change")
        with pytest.raises(Error, match="1 requested, 0 free"):
            kubelet.allocate("default", "pod", "app", "acme.io/a", 1)


def test_devices_of_a_plugin_that_ends_are_unhealthy(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        pass
    kubelet.wait_until(lambda: health(kubelet) == {"acme.io/a": [("a1", "Unhealthy")]}, PATIENCE, "the end")


def test_plugin_that_registers_anew_takes_the_place_of_the_old_one(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        newer = Plugin(kubelet.folder, "acme.io/a", "a2")
        newer.socket = newer.socket.with_name("newer.sock")
        with newer:
            register(kubelet, newer)
            kubelet.wait_until(lambda: health(kubelet) == {"acme.io/a": [("a2", "Healthy")]}, PATIENCE, "the newer")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", "v1alpha1", "requested API version 'v1alpha1'"),
        ("endpoint", "", "expected a file name"),
        ("endpoint", "../a.sock", "expected a file name"),
        ("resource_name", "cpu", "expected prefix/name"),
        ("resource_name", "kubernetes.io/a", "the cluster's own"),
    ],
)
def test_registration_that_is_refused(kubelet: Kubelet, field: str, value: str, reason: str) -> None:
    with Plugin(kubelet.folder, "acme.io/a", "a1") as plugin:
        with pytest.raises(grpc.RpcError) as caught:
            register(kubelet, plugin, **{field: value})
        assert caught.value.code() == grpc.StatusCode.UNKNOWN
        assert reason in caught.value.details()
    assert kubelet.resources() == {}


def test_start_removes_all_sockets_and_nothing_else(kubelet: Kubelet) -> None:
    kubelet.stop()
    folder = kubelet.folder / "device-plugins"
    with socket.socket(socket.AF_UNIX) as stale, socket.socket(socket.AF_UNIX) as dead:
        stale.bind(str(folder / "plugin.sock"))
        dead.bind(str(folder / "kubelet.sock"))
    (folder / "kubelet_internal_checkpoint").touch()
    kubelet.start()
    assert {path.name for path in folder.iterdir()} == {"kubelet.sock", "kubelet_internal_checkpoint"}
    with Plugin(kubelet.folder, "acme.io/a", "a1") as plugin:
        register(kubelet, plugin)


def test_restarted_kubelet_knows_what_was_given_and_no_plugin(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2")):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        kubelet.stop()
        kubelet.start()
        assert kubelet.resources() == {}
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2")):
        answer = kubelet.allocate("default", "pod2", "app", "acme.io/a", 1)
        assert dict(answer.envs) == {"IDS": "a2"}


def test_folder_that_cannot_be_used_is_an_error_that_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "device-plugins").write_text("")
    before = threading.active_count()
    with pytest.raises(Error, match="kubelet ") as caught:
        Kubelet(tmp_path).start()
    assert caught.value.kind == Kind.IO
    assert threading.active_count() == before


# Plugins found in plugins_registry


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path, plugin_watch=True)
    kubelet.start()
    yield kubelet
    kubelet.stop()


def found(kubelet: Kubelet, *ids: str, **more: Any) -> Plugin:
    return Plugin(kubelet.folder, "acme.io/a", *ids, registry="plugins_registry", **more)


def test_plugin_whose_socket_appears_is_taken_and_told(watching: Kubelet) -> None:
    with found(watching, "a1") as plugin:
        watching.wait_for("acme.io/a", 1, PATIENCE)
        assert plugin.notified.get(timeout=PATIENCE) == registration.RegistrationStatus(plugin_registered=True)


def test_plugin_that_was_there_first_is_taken_once(tmp_path: Path) -> None:
    kubelet = Kubelet(tmp_path, plugin_watch=True)
    with found(kubelet, "a1") as plugin:
        kubelet.start()
        kubelet.wait_for("acme.io/a", 1, PATIENCE)
        (tmp_path / "plugins_registry/another").touch()
        with found(kubelet, "b1") as other:
            other.resource = "acme.io/b"
        kubelet.stop()
        assert plugin.notified.get(timeout=PATIENCE).plugin_registered
        assert plugin.notified.empty()


def test_plugin_that_is_none_is_told_why(watching: Kubelet) -> None:
    with found(watching, "a1", kind="CSIPlugin") as plugin:
        told = plugin.notified.get(timeout=PATIENCE)
        assert not told.plugin_registered
        assert told.error == "plugin acme.io/a of type CSIPlugin speaks v1beta1: expected DevicePlugin v1beta1"
    assert watching.resources() == {}


def test_plugin_whose_socket_goes_is_let_go_and_its_next_one_is_taken(watching: Kubelet) -> None:
    with found(watching, "a1") as plugin:
        watching.wait_for("acme.io/a", 1, PATIENCE)
        plugin.socket.unlink()
        gone = {"acme.io/a": [("a1", "Unhealthy")]}
        watching.wait_until(lambda: health(watching) == gone, PATIENCE, "the end")
    with found(watching, "a2"):
        back = {"acme.io/a": [("a2", "Healthy")]}
        watching.wait_until(lambda: health(watching) == back, PATIENCE, "the next one")


# Allocation


def test_lowest_free_devices_are_given(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a3", "a1", "a2")) as plugin:
        assert kubelet.allocate("default", "one", "app", "acme.io/a", 2).envs["IDS"] == "a1,a2"
        assert kubelet.allocate("default", "two", "app", "acme.io/a", 1).envs["IDS"] == "a3"
        kubelet.free("default", "one")
        assert kubelet.allocate("default", "three", "app", "acme.io/a", 1).envs["IDS"] == "a1"
        asked = [plugin.calls.get_nowait().container_requests[0].devices_ids for _ in range(3)]
        assert asked == [["a1", "a2"], ["a3"], ["a1"]]


def test_preferred_devices_are_given(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2", "a3", prefers=["a3"])) as plugin:
        assert kubelet.allocate("default", "pod", "app", "acme.io/a", 1).envs["IDS"] == "a3"
        [asked] = plugin.calls.get_nowait().container_requests
        assert (asked.available_deviceIDs, asked.allocation_size) == (["a1", "a2", "a3"], 1)


@pytest.mark.parametrize("prefers", [[], ["a9"], ["a1", "a2"]])
def test_plugin_that_prefers_what_cannot_be_is_refused(kubelet: Kubelet, prefers: list[str]) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2", prefers=prefers)):
        with pytest.raises(Error, match="expected 1 of those available") as caught:
            kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        assert caught.value.kind == Kind.DEVICE
        assert kubelet.allocations() == []


@pytest.mark.parametrize(("key", "reason"), [("broken", "INTERNAL: it is broken"), ("odd", "got 0")])
def test_plugin_that_fails_to_allocate_gives_nothing(kubelet: Kubelet, key: str, reason: str) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", key)):
        with pytest.raises(Error, match=reason):
            kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        assert kubelet.allocations() == []


def test_more_than_there_are_and_unknown_resources_are_refused_with_what_there_is(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        with pytest.raises(Error, match=r"2 requested, 1 free \(1 devices, 1 healthy, 0 allocated\)"):
            kubelet.allocate("default", "pod", "app", "acme.io/a", 2)
        with pytest.raises(Error, match=r"acme\.io/b: not registered; registered: acme\.io/a"):
            kubelet.allocate("default", "pod", "app", "acme.io/b", 1)


def test_waiting_in_vain_says_what_is_there(kubelet: Kubelet) -> None:
    message = r"no 2 healthy devices of acme\.io/a within 0 s; registered: acme\.io/a \(1 of 1 healthy\)"
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")), pytest.raises(Error, match=message):
        kubelet.wait_for("acme.io/a", 2, 0)


# Start of a container


@pytest.mark.parametrize("registry", ["device-plugins", "plugins_registry"])
def test_plugins_that_ask_for_it_are_told_that_a_container_with_their_devices_starts(
    request: pytest.FixtureRequest, registry: str
) -> None:
    registers = registry == "device-plugins"
    kubelet: Kubelet = request.getfixturevalue("kubelet" if registers else "watching")
    asks = Plugin(kubelet.folder, "acme.io/a", "a1", "a2", "a3", pre_start=True, registry=registry)
    does_not = Plugin(kubelet.folder, "acme.io/b", "b1", registry=registry)
    with asks, does_not:
        for plugin in (asks, does_not):
            if registers:
                register(kubelet, plugin)
            kubelet.wait_for(plugin.resource, 1, PATIENCE)
        for name, container, resource, count in (
            ("pod", "app", "acme.io/a", 2),
            ("pod", "app", "acme.io/b", 1),
            ("pod", "side", "acme.io/a", 1),
        ):
            kubelet.allocate("default", name, container, resource, count)
        for plugin in (asks, does_not):
            while not plugin.calls.empty():
                plugin.calls.get_nowait()
        kubelet.pre_start("default", "pod", "app")
        assert asks.calls.get_nowait() == dp.PreStartContainerRequest(devices_ids=["a1", "a2"])
        kubelet.pre_start("default", "pod", "init")
        kubelet.pre_start("default", "other", "app")
        assert asks.calls.empty()
        assert does_not.calls.empty()


def test_refusal_to_start_and_a_plugin_that_is_gone_are_told(kubelet: Kubelet) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "lost", pre_start=True)):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        with pytest.raises(Error, match=r"acme\.io/a: the device plugin refuses: FAILED_PRECONDITION: it is lost"):
            kubelet.pre_start("default", "pod", "app")
    with pytest.raises(Error, match=r"acme\.io/a: the device plugin refuses: UNAVAILABLE") as caught:
        kubelet.pre_start("default", "pod", "app")
    assert caught.value.kind == Kind.DEVICE
    kubelet.stop()
    kubelet.start()
    with pytest.raises(Error, match=r"resource acme\.io/a: not registered any more"):
        kubelet.pre_start("default", "pod", "app")


# Pod-resources


def test_pod_resources_name_each_device_with_its_numa_node(kubelet: Kubelet) -> None:
    with (
        registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2", "a3", numa=1)),
        rpc.channel(str(kubelet.folder / "pod-resources/kubelet.sock"), options=LOCAL) as channel,
    ):
        client: Any = rpc.Client(channel, pods.DESCRIPTOR.services_by_name["PodResourcesLister"])
        kubelet.allocate("default", "pod", "app", "acme.io/a", 2)
        topology = pods.TopologyInfo(nodes=[pods.NUMANode(ID=1)])
        devices = [
            pods.ContainerDevices(resource_name="acme.io/a", device_ids=[key], topology=topology)
            for key in ("a1", "a2", "a3")
        ]
        pod = pods.PodResources(
            name="pod",
            namespace="default",
            containers=[pods.ContainerResources(name="app", devices=devices[:2])],
        )
        listed = client.List(pods.ListPodResourcesRequest(), timeout=PATIENCE)
        assert listed == pods.ListPodResourcesResponse(pod_resources=[pod])
        asked = pods.GetPodResourcesRequest(pod_name="pod", pod_namespace="default")
        assert client.Get(asked, timeout=PATIENCE) == pods.GetPodResourcesResponse(pod_resources=pod)
        allocatable = client.GetAllocatableResources(pods.AllocatableResourcesRequest(), timeout=PATIENCE)
        assert allocatable == pods.AllocatableResourcesResponse(devices=devices)
        with pytest.raises(grpc.RpcError, match="pod other in namespace default not found"):
            client.Get(pods.GetPodResourcesRequest(pod_name="other", pod_namespace="default"), timeout=PATIENCE)
