"""The gRPC services of a pool for the kubelet: v1beta1.DevicePlugin and pluginregistration.Registration."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from wirespeed import live
from wirespeed.deviceplugin import allocation, pools, preference, vhostuser
from wirespeed.deviceplugin.binding import HAND_OVER_TIMEOUT, Bindings
from wirespeed.deviceplugin.cdi import specs_of
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.deviceplugin.health import Fault
from wirespeed.deviceplugin.info import device_info
from wirespeed.deviceplugin.pools import Devices, abbreviate
from wirespeed.devices.inventory import NetDevice, Reader
from wirespeed.errors import Error, Kind, Thing, as_error, within
from wirespeed.kube import deviceinfo
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration
from wirespeed.node import NodeConfig

log = logging.getLogger(__name__)

VERSION = "v1beta1"
STREAMS = 4  # concurrent ListAndWatch calls of a pool; the kubelet has one, and two while it restarts
_STATUS = {Kind.DEVICE: grpc.StatusCode.FAILED_PRECONDITION, Kind.INVALID_CONFIG: grpc.StatusCode.INVALID_ARGUMENT}


class PoolService:
    """The services of one pool; `update` sets its devices. Thread-safe.

    gRPC calls the methods that have the protocol's names.
    """

    def __init__(self, pool: PoolConfig, where: NodeConfig, bindings: Bindings) -> None:
        """Raises Error(INVALID_CONFIG) if the pool is to use CDI and cannot, or needs it and must not."""
        self.pool = pool
        self._specs = specs_of(pool, where)
        self._last_error = ""  # last logged error of the CDI specification
        self.endpoint = ""  # path of its socket, once it is served
        self._sysfs, self._where, self._bindings = where.sysfs, where, bindings
        self._changed = threading.Condition()
        self._devices: Devices = {}
        self._faults: dict[str, Fault] = {}
        # The list for the kubelet, replaced by each change: (address, NUMA node or -1, healthy), sorted by address.
        self._list: list[tuple[str, int, bool]] = []
        self._offered: set[str] = set()  # all addresses that were ever in the pool
        self._streams = 0
        self._ended = False
        self.allocated_count = 0  # number of allocated devices, a counter

    @property
    def options(self) -> Any:
        """The DevicePluginOptions: which optional calls the kubelet must make."""
        return dp.DevicePluginOptions(
            get_preferred_allocation_available=True, pre_start_required=bool(self.pool.bind)
        )

    @property
    def offered_count(self) -> int:
        with self._changed:
            return len(self._devices)

    @property
    def healthy(self) -> set[str]:
        """The addresses of the devices that the kubelet may allocate."""
        with self._changed:
            return self._devices.keys() - self._faults.keys()

    @property
    def faults(self) -> dict[str, Fault]:
        """The faults of its devices, by address."""
        with self._changed:
            return dict(self._faults)

    def report(self) -> live.Pool:
        """Report its devices, with the text of each fault."""
        with self._changed:
            faults = tuple(live.Fault(key, fault.text) for key, fault in sorted(self._faults.items()))
            return live.Pool(resource=self.pool.resource, devices=tuple(sorted(self._devices)), unhealthy=faults)

    @property
    def is_cdi_file_removed(self) -> bool:
        """Whether `update` must rewrite the CDI specification because its file was removed."""
        return self._specs is not None and self._specs.is_file_removed

    def update(self, devices: Devices, faults: Mapping[str, Fault]) -> None:
        """Set the pool's devices; those with a fault are Unhealthy. If the list changed, the kubelet gets it."""
        faults = {key: fault for key, fault in faults.items() if key in devices}
        self._offer_by_cdi(devices)
        with self._changed:
            came, went = devices.keys() - self._devices.keys(), self._devices.keys() - devices.keys()
            before = self._faults
            self._devices, self._faults = devices, faults
            self._offered.update(devices)
            listed = [
                (key, -1 if self.pool.exclude_topology else device.numa_node, key not in faults)
                for key, device in sorted(devices.items())
            ]
            if listed != self._list:
                self._list = listed
                self._changed.notify_all()
        if came or went:
            fields = {"devices": len(devices), "came": abbreviate(came), "went": abbreviate(went)}
            log.info("pool %s", self.pool.resource, extra={"fields": fields})
        self._log_faults(before, faults)

    def end(self) -> None:
        """End all ListAndWatch calls; new ones end at once."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # v1beta1.DevicePlugin

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return self.options

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: ARG002, N802
        with self._stream(context):
            seen = None
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._ended or not context.is_active() or self._list is not seen  # noqa: B023
                    )
                    if self._ended or not context.is_active():
                        return
                    seen = self._list
                yield dp.ListAndWatchResponse(devices=[_device(*each) for each in seen])

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._changed:
            known, pool = self._devices, self.pool
        nodes = {device.numa_node for device in known.values()}
        last = preference.without_memory_or_cpus(nodes, pool.hugepages, self._sysfs)
        answers = []
        for asked in request.container_requests:
            must = [_device_or_placeholder(known, key) for key in asked.must_include_deviceIDs]
            available = [_device_or_placeholder(known, key) for key in asked.available_deviceIDs]
            try:
                chosen = preference.preferred(available, must, asked.allocation_size, packed=pool.packed, last=last)
            except Error as error:
                self._abort(context, error)
            answers.append(dp.ContainerPreferredAllocationResponse(deviceIDs=chosen))
        return dp.PreferredAllocationResponse(container_responses=answers)

    def Allocate(self, request: Any, context: Any) -> Any:  # noqa: N802
        reader = pools.reader([self.pool], self._sysfs)
        answers = []
        try:
            for asked in request.container_requests:
                for key in asked.devices_ids if self.pool.bind else ():
                    self._bindings.take_back(key)  # the kubelet allocates it anew, so the pod that had it is gone
                devices = [self._allocatable(key, reader, context) for key in asked.devices_ids]
                answers.append(self._container_response(devices))
                for device in devices:
                    self._write_info(device)
                with self._changed:
                    self.allocated_count += len(devices)
                fields = {"resource": self.pool.resource, "devices": abbreviate(d.address for d in devices)}
                log.info("allocated", extra={"fields": fields})
        except Error as error:
            self._abort(context, error)
        except OSError as error:
            self._abort(context, as_error(error).within(Thing("resource", self.pool.resource)))
        return dp.AllocateResponse(container_responses=answers)

    def PreStartContainer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Bind VFs that no network of the pod has attached to the pool's driver.

        The pod's networks are already attached at this point. The runtime reads the CDI specification afterwards,
        so it gets the device nodes of the drivers that the VFs have now.
        """
        reader, deadline = pools.reader([self.pool], self._sysfs), time.monotonic() + HAND_OVER_TIMEOUT
        try:
            for key in request.devices_ids if self.pool.bind else ():
                self._bindings.hand_over(key, self.pool.bind, deadline=deadline)
                self._container_response([self._allocatable(key, reader, context)])
        except Error as error:
            self._abort(context, error)
        return dp.PreStartContainerResponse()

    # pluginregistration.Registration

    def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return registration.PluginInfo(
            type="DevicePlugin",
            name=self.pool.resource,
            endpoint=self.endpoint,
            supported_versions=[VERSION],
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        if request.plugin_registered:
            log.info("resource %s is registered", self.pool.resource)
        else:  # the kubelet retries by itself, with backoff
            log.error("resource %s: the kubelet refuses: %s", self.pool.resource, request.error)
        return registration.RegistrationStatusResponse()

    # Inside

    def _log_faults(self, before: Mapping[str, Fault], now: Mapping[str, Fault]) -> None:
        """Log which devices became Unhealthy, one line per fault, and which are Healthy again."""
        by_fault: dict[Fault, list[str]] = {}
        for key, fault in now.items():
            if before.get(key) != fault:
                by_fault.setdefault(fault, []).append(key)
        for fault, keys in sorted(by_fault.items()):
            fields = {"reason": fault.reason, "devices": abbreviate(keys)}
            log.warning("pool %s: unhealthy: %s", self.pool.resource, fault.text, extra={"fields": fields})
        well = [key for key in before if key not in now and key in self._devices]
        if well:
            fields = {"devices": abbreviate(well)}
            log.info("pool %s: healthy again", self.pool.resource, extra={"fields": fields})

    @contextmanager
    def _stream(self, context: Any) -> Iterator[None]:
        """Count a ListAndWatch call, and wake it up when its caller disconnects."""
        with self._changed:
            full = self._streams >= STREAMS
            self._streams += 1
        try:
            if full:  # each call blocks a thread, and Allocate needs one too
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"resource {self.pool.resource}: {STREAMS} ListAndWatch calls are open",
                )
            context.add_callback(self._notify)  # not called if the caller is already gone; `wait_for` checks that
            yield
        finally:
            with self._changed:
                self._streams -= 1

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _allocatable(self, key: str, reader: Reader, context: Any) -> NetDevice:
        """Read the device's current state. Raises Error(DEVICE) if it cannot be allocated any more."""
        where = (Thing("resource", self.pool.resource), Thing("device", key))
        with self._changed:
            if key not in self._offered:
                unknown = Error(Kind.DEVICE, "not known in this pool", where=where)
                context.abort(grpc.StatusCode.NOT_FOUND, unknown.msg)
            is_member = key in self._devices
            if is_member and self.pool.kind == VHOST_USER:
                return self._devices[key]
        device = reader.read_one(key)
        if device is None:
            raise Error(Kind.DEVICE, "it is gone", where=where)
        if isinstance(device, str):
            raise Error(Kind.DEVICE, f"not in this pool any more: {device}", where=where)
        if reason := pools.mismatch(self.pool, device):
            raise Error(Kind.DEVICE, f"not in this pool any more: {reason}", where=where)
        # A VF that is being bound may have left the pool, because it was read while it had no driver.
        if not is_member and not self.pool.bind:
            raise Error(Kind.DEVICE, "not in this pool any more", where=where)
        return device

    def _container_response(self, devices: Sequence[NetDevice]) -> Any:
        if self.pool.kind == VHOST_USER:
            sockets = Path(self._where.vhost.sockets)
            return vhostuser.container_response(self.pool, [device.address for device in devices], sockets)
        annotate = self._where.cdi_annotations
        return allocation.container_response(self.pool, devices, self._sysfs, self._specs, annotate=annotate)

    def _write_info(self, device: NetDevice) -> None:
        info = device_info(self.pool, device, self._sysfs)
        if info is not None:
            file = deviceinfo.dp_file(Path(self._where.devinfo), self.pool.resource, device.address)
            with within(Thing("resource", self.pool.resource)):
                deviceinfo.write(file, info)

    def _offer_by_cdi(self, devices: Devices) -> None:
        """Write the CDI specification, before the kubelet gets the list. Allocate retries a failed write."""
        message = ""
        try:
            if self._specs:
                self._specs.offer(self.pool, devices)
        except Error as error:
            message = error.msg
        if message and message != self._last_error:
            log.error("%s", message)
        self._last_error = message

    def _abort(self, context: Any, error: Error) -> None:
        log.error("%s", error.msg)
        context.abort(_STATUS.get(error.kind, grpc.StatusCode.INTERNAL), error.msg)


def _device_or_placeholder(devices: Devices, key: str) -> NetDevice:
    """Return the device; for one that has just left the pool, a placeholder with NUMA node -1, to prefer others."""
    return devices.get(key) or NetDevice(address=key, vendor="", device="", driver="")


def _device(address: str, numa_node: int, healthy: bool) -> Any:
    device = dp.Device(ID=address, health="Healthy" if healthy else "Unhealthy")
    if numa_node >= 0:
        device.topology.nodes.add(ID=numa_node)
    return device
