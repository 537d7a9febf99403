"""Starts the device plugin, reloads its configuration, and stops it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wirespeed import live
from wirespeed.deviceplugin import cdi, config
from wirespeed.deviceplugin.binding import Bindings
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.follow import Follower
from wirespeed.deviceplugin.kubelet import Kubelet
from wirespeed.deviceplugin.reload import Reloader, content
from wirespeed.deviceplugin.service import PoolService
from wirespeed.devices import pci
from wirespeed.errors import Error
from wirespeed.kube import deviceinfo
from wirespeed.kube.podresources import PodResources
from wirespeed.metrics import Family
from wirespeed.node import Node, NodeConfig

log = logging.getLogger(__name__)


def run(node: Node, stop: threading.Event) -> None:
    """Serve the node's pools until `stop` is set. Raises Error: IO, INVALID_CONFIG with all errors of the file."""
    plugin = Plugin(node.config)
    node.metrics += [plugin.metrics, plugin.use]
    node.live.pools = plugin.pools
    node.reload_callbacks.append(plugin.request_reload)
    plugin.run(stop)


class Plugin:
    """The device plugin of a node with the configuration `where`. Raises Error as `run`, and OSError."""

    def __init__(self, where: NodeConfig) -> None:
        self._began = time.monotonic()
        self._file = config.config_file(where)
        text = content(self._file)
        pools = config.load_node_pools(where)
        self._where = where
        _remove_stale_info(pools, where)
        cdi.remove_stale(pools, where)
        self._bindings = Bindings(where)
        self._services = [PoolService(pool, where, self._bindings) for pool in pools]
        self._follower = Follower(self._services, where.sysfs)
        self._reloader = Reloader(self._file, text, self._reload)

    def request_read(self) -> None:
        """Read the node's devices again, as after a uevent. Thread-safe, while it runs."""
        self._follower.request_read()

    def request_reload(self) -> None:
        """Read the configuration file again. Safe in any thread and in signal handlers, while it runs."""
        self._reloader.request()

    def metrics(self) -> Iterator[Family]:
        """Yield the pools' devices, allocations and faults (`wirespeed.metrics`)."""
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
            name="wirespeed_pool_devices_unhealthy",
            kind="gauge",
            text="Devices of a pool that the kubelet must not give to pods",
            labels=("resource",),
        )
        faults = Family(
            name="wirespeed_device_unhealthy",
            kind="gauge",
            text="Devices that the kubelet must not give to pods: 1, with the reason",
            labels=("resource", "device", "reason"),
        )
        reporters = Family(
            name="wirespeed_devlink_reporter_in_error",
            kind="gauge",
            text="devlink health reporters in error, as reported by a NIC's driver: 1",
            labels=("device", "port", "reporter"),
        )
        for service in self._services:
            devices.add(service.pool.resource, value=service.offered_count)
            given.add(service.pool.resource, value=service.allocated_count)
            found = service.faults
            unhealthy.add(service.pool.resource, value=len(found))
            for address, fault in found.items():
                faults.add(service.pool.resource, address, fault.reason)
        for reporter in sorted(self._follower.reporters_in_error):
            port = "" if reporter.port < 0 else str(reporter.port)
            reporters.add(reporter.device, port, reporter.name, value=1)
        yield from (devices, given, unhealthy, faults, reporters)

    def use(self) -> Iterator[Family]:
        """Yield how many devices of the pools pods have, and how many are free, as the kubelet reports it."""
        allocated = Family(
            name="wirespeed_pool_devices_allocated",
            kind="gauge",
            text="Devices of a pool that pods have",
            labels=("resource",),
        )
        free = Family(
            name="wirespeed_pool_devices_free",
            kind="gauge",
            text="Healthy devices of a pool that no pod has",
            labels=("resource",),
        )
        socket = Path(self._where.kubelet) / "pod-resources/kubelet.sock"
        if socket.exists():
            with contextlib.closing(PodResources(socket)) as resources:
                given = resources.allocations()
            for service in self._services:
                taken = {each.device for each in given if each.resource == service.pool.resource}
                allocated.add(service.pool.resource, value=len(taken))
                free.add(service.pool.resource, value=len(service.healthy - taken))
        yield from (allocated, free)

    def pools(self) -> list[live.Pool]:
        """Report the pools, their devices and those that are unhealthy."""
        return [service.report() for service in self._services]

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
        path = Path(self._where.kubelet) / "pod-resources/kubelet.sock"
        with contextlib.closing(PodResources(path)) as resources:
            self._bindings.follow(ended, lambda: [given.device for given in resources.allocations()])

    def _reload(self) -> None:
        """Read the configuration file and switch to its pools; an invalid file changes nothing."""
        served = {service.pool.resource: service for service in self._services}
        try:
            pools = config.load_node_pools(self._where)
            services = [
                served[pool.resource]
                if _can_serve(served.get(pool.resource), pool)
                else PoolService(pool, self._where, self._bindings)
                for pool in pools
            ]
            sockets = self._kubelet.sockets(services)
        except Error as error:
            log.error("the new configuration is refused, the pools are unchanged: %s", error.msg)  # noqa: TRY400 — no traceback for it
            return
        for service, pool in zip(services, pools, strict=True):
            service.pool = pool
        for service in self._services:
            if service not in services:  # its devices may be assigned to another pool from now on
                service.update({}, {})
        self._services = services
        self._kubelet.change(sockets)
        self._follower.set_services(services)
        log.info("the configuration is reloaded", extra={"fields": {"pools": len(pools), "file": self._file}})


def _can_serve(service: PoolService | None, pool: PoolConfig) -> bool:
    """Whether it has the pool's device type, CDI and options for the kubelet, which a running one cannot change."""
    now = service.pool if service else None
    return now is not None and (now.kind, now.cdi, bool(now.bind)) == (pool.kind, pool.cdi, bool(pool.bind))


def _close_after(stop: threading.Event, ender: socket.socket) -> None:
    stop.wait()
    ender.close()


def _remove_stale_info(pools: Sequence[PoolConfig], where: NodeConfig) -> None:
    """Remove the pools' device-info files of PCI devices that no longer exist."""
    try:
        present = set(os.listdir(f"{where.sysfs}/bus/pci/devices"))
    except OSError:  # without PCI in sysfs nothing is known
        return
    base = Path(where.devinfo)
    for file in deviceinfo.dp_file(base, "", "").parent.glob("*-device.json"):
        address = file.name.split("-")[-2]
        is_ours = any(file == deviceinfo.dp_file(base, pool.resource, address) for pool in pools)
        if is_ours and pci.ADDRESS.fullmatch(address) and address not in present:
            file.unlink(missing_ok=True)
            what = "removed the device-info file of a device that no longer exists"
            log.info(what, extra={"fields": {"file": file}})
