"""The device plugin: starts it from its configuration, reloads that, and stops it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin import cdi, config
from wirespeed.deviceplugin.binding import Bindings, bindings
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.follow import Follower
from wirespeed.deviceplugin.kubelet import Kubelet
from wirespeed.deviceplugin.reload import Reloader, content
from wirespeed.deviceplugin.service import PoolService
from wirespeed.devices import pci
from wirespeed.kube import deviceinfo
from wirespeed.kube.podresources import PodResources
from wirespeed.metrics import Family
from wirespeed.node import Node, NodeConfig

log = logging.getLogger(__name__)


def run(node: Node, stop: threading.Event) -> None:
    """Serve the node's pools to the kubelet until `stop` is set.

    Raises CniError: INVALID_CONFIG with all errors of the configuration, IO_FAILURE.
    """
    plugin = Plugin(node.config)
    node.metrics.append(plugin.figures)
    node.hangups.append(plugin.read_again)
    plugin.run(stop)


class Plugin:
    """The device plugin of a node with the configuration `where`. Raises CniError as `run`, and OSError."""

    def __init__(self, where: NodeConfig) -> None:
        self._began = time.monotonic()
        self._file = config.file_of(where)
        text = content(self._file)
        pools = config.load_of(where)
        self._where = where
        _remove_stale_info(pools, where)
        cdi.remove_stale(pools, where)
        self._bindings = bindings(where)
        self._services = [_service(pool, where, self._bindings) for pool in pools]
        self._follower = Follower(self._services, where.sysfs)
        self._reloader = Reloader(self._file, text, self._reload)

    def look_again(self) -> None:
        """Read the node's devices again, as after a uevent. Thread-safe, while it runs."""
        self._follower.look_again()

    def read_again(self) -> None:
        """Read the configuration file again. Safe in any thread and in signal handlers, while it runs."""
        self._reloader.ask()

    def figures(self) -> Iterator[Family]:
        """Yield the metrics of the pools: devices, allocations and faults (`wirespeed.metrics`)."""
        devices = Family(
            name="wirespeed_pool_devices", kind="gauge", text="Devices offered to the kubelet", labels=("resource",)
        )
        given = Family(
            name="wirespeed_pool_allocations",
            kind="counter",
            text="Devices given to containers since the agent's start",
            labels=("resource",),
        )
        unhealthy = Family(
            name="wirespeed_device_unhealthy",
            kind="gauge",
            text="Devices that the kubelet must not give to pods: 1, with the reason",
            labels=("resource", "device", "reason"),
        )
        reporters = Family(
            name="wirespeed_devlink_reporter_in_error",
            kind="gauge",
            text="Health reporters of devlink, of which a NIC's driver says that it is broken: 1",
            labels=("device", "port", "reporter"),
        )
        for service in self._services:
            devices.add(service.pool.resource, value=service.offered)
            given.add(service.pool.resource, value=service.given)
            for address, fault in service.faults.items():
                unhealthy.add(service.pool.resource, address, fault.reason)
        for reporter in sorted(self._follower.reporters_in_error):
            port = "" if reporter.port < 0 else str(reporter.port)
            reporters.add(reporter.device, port, reporter.name, value=1)
        yield from (devices, given, unhealthy, reporters)

    def run(self, stop: threading.Event) -> None:
        """Serve the pools until `stop` is set. Can be called only once."""
        with contextlib.ExitStack() as end:
            end.callback(self._follower.close)
            end.callback(self._reloader.close)
            self._follower.read()
            self._kubelet = kubelet = Kubelet(self._services, Path(self._where.kubelet))
            end.callback(kubelet.close)
            kubelet.serve()
            fields = {"pools": len(self._services), "ms": (time.monotonic() - self._began) * 1000}
            log.info("the device plugin is ready", extra={"fields": fields})

            ended, ender = socket.socketpair()  # `ended` becomes readable when `ender` is closed
            end.callback(ended.close)
            waiter = threading.Thread(target=_close_after, args=(stop, ender), name="deviceplugin end", daemon=True)
            waiter.start()
            threads = end.enter_context(ThreadPoolExecutor(3, thread_name_prefix="deviceplugin follower"))
            end.callback(ender.close)
            follows = (self._follower.follow, self._reloader.follow, self._follow_bindings)
            followers = [threads.submit(follow, ended.fileno()) for follow in follows]
            for following in followers:
                following.add_done_callback(lambda _: ender.close())  # if one fails, end the others
            kubelet.follow(ended.fileno())
            for following in followers:
                following.result()
            waiter.join()

    def _follow_bindings(self, ended: int) -> None:
        resources = PodResources(Path(self._where.kubelet) / "pod-resources/kubelet.sock")
        try:
            self._bindings.follow(ended, lambda: [given.device for given in resources.given()])
        finally:
            resources.close()

    def _reload(self) -> None:
        """Read the configuration file and switch to its pools; an invalid file changes nothing."""
        served = {service.pool.resource: service for service in self._services}
        try:
            pools = config.load_of(self._where)
            services = [
                _changed(served.get(pool.resource), pool) or _service(pool, self._where, self._bindings)
                for pool in pools
            ]
            sockets = self._kubelet.sockets(services)
        except CniError as error:
            log.error("refused, the pools stay as they are: %s", error.msg)  # noqa: TRY400 — no traceback for it
            return
        for service, pool in zip(services, pools, strict=True):
            service.pool = pool
        for service in self._services:
            if service not in services:  # its devices may be assigned to another pool from now on
                service.update({}, {})
        self._services = services
        self._kubelet.change(sockets)
        self._follower.change(services)
        log.info("the configuration is read anew", extra={"fields": {"pools": len(pools), "file": self._file}})


def _changed(service: PoolService | None, pool: PoolConfig) -> PoolService | None:
    """Return the service if it can continue with the changed pool; None if a new one is needed."""
    if service and _fixed(service.pool) == _fixed(pool):
        return service
    return None


def _fixed(pool: PoolConfig) -> tuple[object, ...]:
    """Return what a running service cannot change: device type, CDI, and the options that the kubelet has."""
    return pool.kind, pool.cdi, bool(pool.bind)


def _service(pool: PoolConfig, where: NodeConfig, bindings: Bindings) -> PoolService:
    specs = cdi.specs(pool, where)
    if pool.bind and specs is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"resource {pool.resource}: bind needs cdi: the nodes of a VF's driver are known when its container "
            "starts, not when the VF is allocated",
        )
    return PoolService(
        pool,
        sysfs=where.sysfs,
        devinfo=Path(where.devinfo),
        sockets=Path(where.vhost.sockets),
        bindings=bindings,
        specs=specs,
        annotate=where.cdi_annotations,
    )


def _close_after(stop: threading.Event, ender: socket.socket) -> None:
    stop.wait()
    ender.close()


def _remove_stale_info(pools: Sequence[PoolConfig], where: NodeConfig) -> None:
    """Remove the pools' device-info files of PCI devices that no longer exist."""
    try:
        present = set(os.listdir(f"{where.sysfs}/bus/pci/devices"))
    except OSError:  # without PCI in sysfs nothing is known
        return
    folder = deviceinfo.dp_file(Path(where.devinfo), "", "").parent
    for pool in pools:
        name = re.compile(re.escape(deviceinfo.dp_file(folder, pool.resource, "@").name).replace("@", "(.+)"))
        for file in folder.iterdir() if folder.is_dir() else ():
            match = name.fullmatch(file.name)
            if match and pci.ADDRESS.fullmatch(match[1]) and match[1] not in present:
                file.unlink(missing_ok=True)
                log.info(
                    "removed the device-info file of a device that is no more", extra={"fields": {"file": file}}
                )
