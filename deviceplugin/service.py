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

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin import allocation, pools, preference, vhostuser
from wirespeed.deviceplugin.binding import HAND_OVER, Bindings
from wirespeed.deviceplugin.cdi import Specs
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.deviceplugin.health import Fault
from wirespeed.deviceplugin.info import device_info
from wirespeed.deviceplugin.pools import Devices, fits, some
from wirespeed.devices.inventory import NetDevice, Reader
from wirespeed.kube import deviceinfo
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration

log = logging.getLogger(__name__)

VERSION = "v1beta1"
STREAMS = 4  # concurrent ListAndWatch calls of a pool; the kubelet has one, and two while it restarts
_STATUS = {Code.DEVICE: grpc.StatusCode.FAILED_PRECONDITION, Code.INVALID_CONFIG: grpc.StatusCode.INVALID_ARGUMENT}


class PoolService:
    """The services of one pool; `update` sets its devices. Thread-safe.

    gRPC calls the methods that have the protocol's names.
    """

    def __init__(
        self,
        pool: PoolConfig,
        *,
        sysfs: str,
        devinfo: Path,
        sockets: Path,
        bindings: Bindings,
        specs: Specs | None = None,
        annotate: bool = False,
    ) -> None:
        """With `specs`, containers get the devices by CDI; with `annotate`, the CDI names are in annotations.

        `sockets` is the node's folder for the sockets of vhost-user interfaces.
        """
        self.pool = pool
        self._specs, self._annotate = specs, annotate
        self._complaint = ""  # last logged error of the CDI specification
        self.endpoint = ""  # path of its socket, once it is served
        self._sysfs, self._devinfo, self._sockets, self._bindings = sysfs, devinfo, sockets, bindings
        self._changed = threading.Condition()
        self._devices: Devices = {}
        self._faults: dict[str, Fault] = {}
        self._listed: list[tuple[str, int, bool]] = []  # the list for the kubelet, see _shown
        self._offered: set[str] = set()  # all addresses that were ever in the pool
        self._version = 0  # of the list for the kubelet
        self._streams = 0
        self._ended = False
        self.given = 0  # number of allocated devices, a counter

    @property
    def options(self) -> Any:
        """The DevicePluginOptions: which optional calls the kubelet must make."""
        return dp.DevicePluginOptions(
            get_preferred_allocation_available=True, pre_start_required=bool(self.pool.bind)
        )

    @property
    def offered(self) -> int:
        """The number of devices offered to the kubelet."""
        with self._changed:
            return len(self._devices)

    @property
    def faults(self) -> dict[str, Fault]:
        """The faults of its devices, by address."""
        with self._changed:
            return dict(self._faults)

    @property
    def has_lost_files(self) -> bool:
        """Whether `update` must rewrite the CDI specification because its file was removed."""
        return self._specs is not None and self._specs.lost

    def update(self, devices: Devices, faults: Mapping[str, Fault]) -> None:
        """Set the pool's devices, and those with a fault as Unhealthy; the kubelet gets the list if it changed."""
        faults = {key: fault for key, fault in faults.items() if key in devices}
        self._offer_by_cdi(devices)
        with self._changed:
            came, went = devices.keys() - self._devices.keys(), self._devices.keys() - devices.keys()
            before = self._faults
            self._devices, self._faults = devices, faults
            self._offered.update(devices)
            if (shown := self._shown()) != self._listed:
                self._listed = shown
                self._version += 1
                self._changed.notify_all()
        if came or went:
            fields = {"devices": len(devices), "came": some(came), "went": some(went)}
            log.info("pool %s", self.pool.resource, extra={"fields": fields})
        self._log_faults(before, faults)

    def end(self) -> None:
        """End all ListAndWatch calls, for good."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # v1beta1.DevicePlugin

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return self.options

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: ARG002, N802
        with self._stream(context):
            seen = -1
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._ended or not context.is_active() or self._version != seen  # noqa: B023
                    )
                    if self._ended or not context.is_active():
                        return
                    seen, shown = self._version, self._shown()
                yield dp.ListAndWatchResponse(devices=[_device(*each) for each in shown])

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._changed:
            known, pool = self._devices, self.pool
        nodes = {device.numa_node for device in known.values()}
        last = preference.without_memory_or_cpus(nodes, pool.hugepages, self._sysfs)
        answers = []
        for asked in request.container_requests:
            must = [_known(known, key) for key in asked.must_include_deviceIDs]
            available = [_known(known, key) for key in asked.available_deviceIDs]
            try:
                chosen = preference.preferred(available, must, asked.allocation_size, packed=pool.packed, last=last)
            except CniError as error:
                self._refuse(context, error)
            answers.append(dp.ContainerPreferredAllocationResponse(deviceIDs=chosen))
        return dp.PreferredAllocationResponse(container_responses=answers)

    def Allocate(self, request: Any, context: Any) -> Any:  # noqa: N802
        reader = pools.reader([self.pool], self._sysfs)
        answers = []
        try:
            for asked in request.container_requests:
                for key in asked.devices_ids if self.pool.bind else ():
                    self._bindings.give_back(key)  # for the kubelet, the pod that had it is gone
                devices = [self._allocatable(key, reader, context) for key in asked.devices_ids]
                answers.append(self._answer(devices))
                for device in devices:
                    self._write_info(device)
                with self._changed:
                    self.given += len(devices)
                log.info(
                    "allocated",
                    extra={"fields": {"resource": self.pool.resource, "devices": some(d.address for d in devices)}},
                )
        except CniError as error:
            self._refuse(context, error)
        except OSError as error:
            text = f"resource {self.pool.resource}: device-info file {error.filename}: {error.strerror}"
            log.error("%s", text)  # noqa: TRY400 — no traceback for a refusal
            context.abort(grpc.StatusCode.INTERNAL, text)
        return dp.AllocateResponse(container_responses=answers)

    def PreStartContainer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Bind VFs that no network of the pod has attached to the pool's driver.

        The pod's networks are already attached at this point. The runtime reads the CDI specification afterwards,
        so it gets the device nodes of the drivers that the VFs have now.
        """
        reader, deadline = pools.reader([self.pool], self._sysfs), time.monotonic() + HAND_OVER
        try:
            for key in request.devices_ids if self.pool.bind else ():
                self._bindings.hand_over(key, self.pool.bind, deadline=deadline)
                self._answer([self._allocatable(key, reader, context)])
        except CniError as error:
            self._refuse(context, error)
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
            fields = {"reason": fault.reason, "devices": some(keys)}
            log.warning("pool %s: unhealthy: %s", self.pool.resource, fault.text, extra={"fields": fields})
        well = [key for key in before if key not in now and key in self._devices]
        if well:
            fields = {"devices": some(well)}
            log.info("pool %s: healthy again", self.pool.resource, extra={"fields": fields})

    def _shown(self) -> list[tuple[str, int, bool]]:
        """Return the list for the kubelet: (address, NUMA node or -1, healthy), sorted by address."""
        return [
            (key, -1 if self.pool.exclude_topology else device.numa_node, key not in self._faults)
            for key, device in sorted(self._devices.items())
        ]

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
        """Read the device's current state. Raises CniError(DEVICE) if it cannot be allocated any more."""
        where = f"resource {self.pool.resource}: device {key}"
        with self._changed:
            if key not in self._offered:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{where}: not known in this pool")
            is_member = key in self._devices
            if is_member and self.pool.kind == VHOST_USER:
                return self._devices[key]
        device = reader.read_one(key)
        if device is None:
            raise CniError(Code.DEVICE, f"{where}: gone")
        if isinstance(device, str):
            raise CniError(Code.DEVICE, f"{where}: not in this pool any more: {device}")
        if not fits(self.pool, device):
            reason = pools.refusal(self.pool, device)
            raise CniError(Code.DEVICE, f"{where}: not in this pool any more: {reason}")
        # A VF that is being bound may have left the pool, because it was read while it had no driver.
        if not is_member and not self.pool.bind:
            raise CniError(Code.DEVICE, f"{where}: not in this pool any more")
        return device

    def _answer(self, devices: Sequence[NetDevice]) -> Any:
        if self.pool.kind == VHOST_USER:
            return vhostuser.answer(self.pool, [device.address for device in devices], self._sockets)
        return allocation.answer(self.pool, devices, self._sysfs, self._specs, annotate=self._annotate)

    def _write_info(self, device: NetDevice) -> None:
        file = deviceinfo.dp_file(self._devinfo, self.pool.resource, device.address)
        info = device_info(self.pool, device, self._sysfs)
        if info is not None:
            deviceinfo.write(file, info)

    def _offer_by_cdi(self, devices: Devices) -> None:
        """Write the CDI specification, before the kubelet gets the list. Allocate retries a failed write."""
        complaint = ""
        try:
            if self._specs:
                self._specs.offer(self.pool, devices)
        except CniError as error:
            complaint = error.msg
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint

    def _refuse(self, context: Any, error: CniError) -> None:
        log.error("%s", error.msg)
        context.abort(_STATUS.get(Code(error.code), grpc.StatusCode.INTERNAL), error.msg)


def _known(devices: Devices, key: str) -> NetDevice:
    """Return the device; one that has just left the pool has NUMA node -1 and is not preferred."""
    return devices.get(key) or NetDevice(address=key, vendor="", device="", driver="")


def _device(address: str, numa_node: int, healthy: bool) -> Any:
    device = dp.Device(ID=address, health="Healthy" if healthy else "Unhealthy")
    if numa_node >= 0:
        device.topology.nodes.add(ID=numa_node)
    return device
