"""A kubelet as device plugins and CNI plugins see it: registration, allocation and pod-resources."""

from __future__ import annotations

import contextlib
import stat
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

from wirespeed import errors
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube import resources, rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration
from wirespeed.kube.proto import podresources_pb2 as pods
from wirespeed.play.follow import watching

VERSION = "v1beta1"
_DIAL = 10.0  # seconds to connect to a plugin, as in the kubelet
_ANSWER = 30.0  # seconds for a plugin's answer
_WORKERS = 16
_PLUGIN = dp.DESCRIPTOR.services_by_name["DevicePlugin"]
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # so that a restarted plugin is reached at once
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_receive_message_length", 16 << 20),
)


@dataclass(eq=False)
class _Endpoint:
    """A plugin that serves one resource; its devices by id. They become Unhealthy when its stream ends."""

    resource: str
    socket: Path
    channel: grpc.Channel
    options: Any  # its DevicePluginOptions
    devices: dict[str, Any] = field(default_factory=dict)
    listed: bool = False  # whether it has sent its list of devices
    stream: Any = None
    reader: threading.Thread | None = None

    @property
    def client(self) -> rpc.Client:
        return rpc.Client(self.channel, _PLUGIN)

    def close(self) -> None:
        """End the stream and close the connection to the plugin."""
        self.stream.cancel()
        if self.reader is not None and self.reader is not threading.current_thread():
            self.reader.join(_ANSWER)
        self.channel.close()


@dataclass(frozen=True)
class _Allocation:
    """What one container has of one resource."""

    namespace: str
    pod: str
    container: str
    resource: str
    devices: tuple[str, ...]


class Kubelet:
    """A kubelet's device manager in `folder` (a node's is /var/lib/kubelet). Thread-safe.

    It listens on device-plugins/kubelet.sock and pod-resources/kubelet.sock. With `plugin_watch` it also registers
    plugins whose sockets appear in plugins_registry. With `answers_get` false, pod-resources rejects Get, as a
    kubelet does with feature gate KubeletPodResourcesGet off. After `stop` it can be started again like a restarted
    kubelet: allocations stay, and plugins must register again. `changed` is notified of each change; it may be
    shared with others.
    """

    def __init__(
        self,
        folder: Path,
        *,
        plugin_watch: bool = False,
        answers_get: bool = True,
        changed: threading.Condition | None = None,
    ) -> None:
        self.folder = folder
        self.answers_get = answers_get
        self._plugin_watch = plugin_watch
        self._changed = changed or threading.Condition()
        self._allocating = threading.Lock()
        self._endpoints: dict[str, _Endpoint] = {}
        self._allocations: list[_Allocation] = []
        self._end = contextlib.ExitStack()

    def start(self) -> None:
        """Remove all sockets in device-plugins, as a starting kubelet does, and listen. Raises Error(IO)."""
        plugins = self.folder / "device-plugins"
        with errors.os_errors(f"kubelet {self.folder}"):
            for folder in (plugins, self.folder / "pod-resources"):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            for path in plugins.iterdir():
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()
            with contextlib.ExitStack() as made:
                made.callback(self._drop_all)
                self._listen(made, self.folder / "pod-resources/kubelet.sock", "PodResourcesLister", _Pods(self))
                self._listen(made, plugins / "kubelet.sock", "Registration", _Registration(self))
                if self._plugin_watch:
                    watch = _PluginWatch(self, self.folder / "plugins_registry")
                    made.enter_context(watching(watch.folder, watch.connect_new, "kubelet plugin watch"))
                self._end = made.pop_all()

    def stop(self) -> None:
        """Stop listening and disconnect the plugins; allocations stay."""
        self._end.close()

    def resources(self) -> dict[str, list[Any]]:
        """Return the registered resources with their devices (v1beta1 Device messages), sorted by id."""
        with self._changed:
            return {
                name: [endpoint.devices[key] for key in sorted(endpoint.devices)]
                for name, endpoint in sorted(self._endpoints.items())
            }

    def wait_for(self, resource: str, count: int, timeout: float) -> None:
        """Wait until the resource has at least `count` healthy devices, as `wait_until` does."""
        self.wait_until(
            lambda: resource in self._endpoints and len(self._healthy(resource)) >= count,
            timeout,
            f"{count} healthy devices of {resource}",
        )

    def is_listed(self, resource: str) -> bool:
        """Return whether the resource is registered and its plugin has sent its list of devices."""
        with self._changed:
            return resource in self._endpoints and self._endpoints[resource].listed

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait up to `timeout` seconds for the condition, which is evaluated after each change of devices.

        Raises Error(TRY_AGAIN) that names `what` and lists what is registered.
        """
        with self._changed:
            if self._changed.wait_for(condition, timeout):
                return
            known = ", ".join(
                f"{name} ({len(self._healthy(name))} of {len(self._endpoints[name].devices)} healthy)"
                for name in sorted(self._endpoints)
            )
        what = f"no {what} within {timeout:g} s; registered: {known or 'nothing'}"
        raise Error(Kind.TRY_AGAIN, what, where="kubelet")

    def allocate(self, namespace: str, pod: str, container: str, resource: str, count: int) -> Any:
        """Allocate `count` devices of the resource to the container; return the plugin's ContainerAllocateResponse.

        The plugin's preferred allocation is used if it supports that, else the devices with the lowest ids. Devices
        that are allocated or Unhealthy are never chosen. Raises Error(DEVICE) if there are too few or the plugin
        fails.
        """
        with self._allocating, errors.within(Thing("resource", resource)):
            endpoint, free = self._free(resource, count)
            try:
                chosen = (
                    self._preferred_devices(endpoint, free, count)
                    if endpoint.options.get_preferred_allocation_available
                    else free[:count]
                )
                request = dp.AllocateRequest(container_requests=[dp.ContainerAllocateRequest(devices_ids=chosen)])
                answers = endpoint.client.Allocate(request, timeout=_ANSWER).container_responses
            except grpc.RpcError as error:
                raise _failure(error) from error
            if len(answers) != 1:
                raise Error(Kind.DEVICE, expected="1 container response", got=len(answers))
            with self._changed:
                self._allocations.append(_Allocation(namespace, pod, container, resource, tuple(chosen)))
            return answers[0]

    def pre_start(self, namespace: str, pod: str, container: str) -> None:
        """Call PreStartContainer of the plugins that require it. The container's networks are attached by then.

        Raises Error(DEVICE) if a plugin rejects it or is no longer registered.
        """
        of = namespace, pod, container
        with self._changed:
            given = [a for a in self._allocations if (a.namespace, a.pod, a.container) == of]
            endpoints = dict(self._endpoints)
        for each in given:
            with errors.within(Thing("resource", each.resource)):
                endpoint = endpoints.get(each.resource)
                if endpoint is None:
                    raise Error(Kind.DEVICE, "not registered any more")
                if endpoint.options.pre_start_required:
                    try:
                        request = dp.PreStartContainerRequest(devices_ids=each.devices)
                        endpoint.client.PreStartContainer(request, timeout=_ANSWER)
                    except grpc.RpcError as error:
                        raise _failure(error) from error

    def free(self, namespace: str, pod: str) -> None:
        with self._changed:
            self._allocations = [a for a in self._allocations if (a.namespace, a.pod) != (namespace, pod)]

    # Plugins

    def connect(self, resource: str, socket: Path, *, options: Any = None) -> None:
        """Connect to the plugin at `socket` for the resource; without `options`, use those that it returns itself.

        Raises Error(INVALID_CONFIG) for an invalid resource name, grpc.RpcError if the plugin cannot be reached.
        """
        if problem := resources.name_problem(resource):
            raise Error(Kind.INVALID_CONFIG, f"resource {resource!r}: {problem}")
        channel = rpc.channel(str(socket), options=_OPTIONS)
        endpoint = _Endpoint(resource, socket, channel, options)
        try:
            default_options = endpoint.client.GetDevicePluginOptions(dp.Empty(), timeout=_DIAL, wait_for_ready=True)
        except grpc.RpcError:
            channel.close()
            raise
        if options is None:
            endpoint.options = default_options
        endpoint.stream = endpoint.client.ListAndWatch(dp.Empty())
        endpoint.reader = threading.Thread(target=self._read, args=(endpoint,), name=f"kubelet {resource}")
        with self._changed:
            old = self._endpoints.get(resource)
            self._endpoints[resource] = endpoint
        if old:
            old.close()
        endpoint.reader.start()

    def disconnect(self, socket: Path) -> None:
        """Disconnect the plugin at `socket`; its devices become Unhealthy."""
        with self._changed:
            gone = [endpoint for endpoint in self._endpoints.values() if endpoint.socket == socket]
        for endpoint in gone:
            endpoint.stream.cancel()

    def allocations(self) -> list[_Allocation]:
        with self._changed:
            return list(self._allocations)

    def _read(self, endpoint: _Endpoint) -> None:
        try:
            for response in endpoint.stream:
                with self._changed:
                    endpoint.devices = {device.ID: device for device in response.devices}
                    endpoint.listed = True
                    self._changed.notify_all()
        except grpc.RpcError:
            pass  # the plugin or this kubelet has stopped; its devices must not be allocated any more
        with self._changed:
            endpoint.devices = {
                key: dp.Device(ID=key, health="Unhealthy", topology=device.topology)
                for key, device in endpoint.devices.items()
            }
            self._changed.notify_all()

    def _drop_all(self) -> None:
        with self._changed:
            endpoints, self._endpoints = list(self._endpoints.values()), {}
            self._changed.notify_all()
        for endpoint in endpoints:
            endpoint.close()

    # Devices

    def _healthy(self, resource: str) -> list[str]:
        devices = self._endpoints[resource].devices
        return sorted(key for key, device in devices.items() if device.health == "Healthy")

    def _free(self, resource: str, count: int) -> tuple[_Endpoint, list[str]]:
        with self._changed:
            endpoint = self._endpoints.get(resource)
            if endpoint is None:
                known = ", ".join(sorted(self._endpoints)) or "nothing"
                raise Error(Kind.DEVICE, f"not registered; registered: {known}")
            taken = {key for a in self._allocations if a.resource == resource for key in a.devices}
            healthy = self._healthy(resource)
        free = [key for key in healthy if key not in taken]
        if count < 1 or len(free) < count:
            have = f"{len(endpoint.devices)} devices, {len(healthy)} healthy, {len(taken)} allocated"
            raise Error(Kind.DEVICE, f"{count} requested, {len(free)} free ({have})")
        return endpoint, free

    def _preferred_devices(self, endpoint: _Endpoint, free: list[str], count: int) -> list[str]:
        request = dp.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=count)
        answer = endpoint.client.GetPreferredAllocation(
            dp.PreferredAllocationRequest(container_requests=[request]), timeout=_ANSWER
        )
        chosen = [key for response in answer.container_responses for key in response.deviceIDs]
        if len(chosen) != count or len(set(chosen)) != count or not set(chosen) <= set(free):
            expected = f"{count} of those available"
            raise Error(Kind.DEVICE, f"the plugin prefers {chosen}", expected=expected)
        return chosen

    # Sockets

    def _listen(self, made: contextlib.ExitStack, path: Path, service: str, implementation: object) -> None:
        path.unlink(missing_ok=True)
        descriptor = (dp if service == "Registration" else pods).DESCRIPTOR.services_by_name[service]
        workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix=f"kubelet {service}")
        server = grpc.server(workers, handlers=[rpc.handler(descriptor, implementation)])
        made.callback(workers.shutdown)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        made.callback(lambda: server.stop(None).wait())


class _Registration:
    """The service v1beta1.Registration."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    def Register(self, request: Any, context: Any) -> Any:  # noqa: N802 — the service's name
        if request.version != VERSION:
            context.abort(
                grpc.StatusCode.UNKNOWN, f"requested API version {request.version!r}: expected {VERSION!r}"
            )
        if not request.endpoint or "/" in request.endpoint:
            context.abort(grpc.StatusCode.UNKNOWN, f"endpoint {request.endpoint!r}: expected a file name")
        socket = self._kubelet.folder / "device-plugins" / request.endpoint
        try:
            self._kubelet.connect(request.resource_name, socket, options=request.options)
        except Error as error:
            context.abort(grpc.StatusCode.UNKNOWN, error.msg)
        except grpc.RpcError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"plugin at {socket}: {error.code().name}: {error.details()}")
        return dp.Empty()


class _Pods:
    """The service v1.PodResourcesLister. Like the kubelet, it returns a separate entry for each device."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    def List(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 — the service's name
        return pods.ListPodResourcesResponse(pod_resources=self._pods())

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not self._kubelet.answers_get:
            context.abort(grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
        for pod in self._pods():
            if (pod.namespace, pod.name) == (request.pod_namespace, request.pod_name):
                return pods.GetPodResourcesResponse(pod_resources=pod)
        return context.abort(
            grpc.StatusCode.UNKNOWN, f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
        )

    def GetAllocatableResources(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return pods.AllocatableResourcesResponse(
            devices=[
                _container_devices(resource, device)
                for resource, devices in self._kubelet.resources().items()
                for device in devices
                if device.health == "Healthy"
            ]
        )

    def _pods(self) -> Iterable[Any]:
        known = {
            (name, device.ID): device for name, devices in self._kubelet.resources().items() for device in devices
        }
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for given in self._kubelet.allocations():
            containers = found.setdefault((given.namespace, given.pod), {})
            container = containers.setdefault(given.container, pods.ContainerResources(name=given.container))
            for key in given.devices:
                device = known.get((given.resource, key), dp.Device(ID=key))
                container.devices.append(_container_devices(given.resource, device))
        return [
            pods.PodResources(namespace=namespace, name=name, containers=containers.values())
            for (namespace, name), containers in found.items()
        ]


class _PluginWatch:
    """Connects the plugins whose sockets appear in the directory, and disconnects those whose sockets disappear."""

    def __init__(self, kubelet: Kubelet, folder: Path) -> None:
        self._kubelet, self.folder = kubelet, folder
        self._taken: dict[Path, tuple[int, int]] = {}  # inode and mtime, to recognise a new socket of the same name

    def connect_new(self) -> None:
        current = _sockets(self.folder)
        for path, which in list(self._taken.items()):
            if current.get(path) != which:
                del self._taken[path]
                self._kubelet.disconnect(path)
        for path in sorted(current.keys() - self._taken.keys()):
            self._taken[path] = current[path]
            self._take(path)

    def _take(self, path: Path) -> None:
        """Ask the plugin for its type and name, connect it, and notify it of the result."""
        # The kubelet's plugin watcher sets no authority; Go's gRPC then uses the percent-encoded path.
        options = (("grpc.default_authority", quote(str(path), safe="")), *_OPTIONS)
        with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
            client = rpc.Client(channel, registration.DESCRIPTOR.services_by_name["Registration"])
            try:
                info = client.GetInfo(registration.InfoRequest(), timeout=_DIAL, wait_for_ready=True)
                problem = self._connect(info)
                client.NotifyRegistrationStatus(
                    registration.RegistrationStatus(plugin_registered=not problem, error=problem), timeout=_DIAL
                )
            except grpc.RpcError:
                self._taken.pop(path, None)  # the socket disappeared meanwhile; the next one counts as new

    def _connect(self, info: Any) -> str:
        """Connect the plugin; return why that is impossible, or ""."""
        if info.type != "DevicePlugin" or VERSION not in info.supported_versions:
            versions = ", ".join(info.supported_versions)
            return f"plugin {info.name} of type {info.type} speaks {versions}: expected DevicePlugin {VERSION}"
        try:
            self._kubelet.connect(info.name, Path(info.endpoint))
        except Error as error:
            return error.msg
        return ""


def _sockets(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the sockets in a directory that a kubelet considers, with inode and mtime to tell later ones apart."""
    found = {}
    for path in folder.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISSOCK(status.st_mode):
                found[path] = (status.st_ino, status.st_mtime_ns)
    return found


def _container_devices(resource: str, device: Any) -> Any:
    entry = pods.ContainerDevices(resource_name=resource, device_ids=[device.ID])
    if device.HasField("topology"):
        entry.topology.nodes.extend(pods.NUMANode(ID=node.ID) for node in device.topology.nodes)
    return entry


def _failure(error: grpc.RpcError) -> Error:
    return Error(Kind.DEVICE, f"the device plugin refuses: {error.code().name}: {error.details()}")
