"""The device plugin: from its configuration to its end."""

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

from deviceplugin import cdi, config
from deviceplugin.config import PoolConfig
from deviceplugin.follow import Follower
from deviceplugin.kubelet import Kubelet
from deviceplugin.service import PoolService
from wirespeed.host import pci
from wirespeed.kube import deviceinfo
from wirespeed.metrics import Family
from wirespeed.node import Node, NodeConfig

log = logging.getLogger(__name__)


def run(node: Node, stop: threading.Event) -> None:
    """Serve the node's pools to the kubelet until `stop` is set.

    Raises CniError: INVALID_CONFIG with all that is wrong with the configuration, IO_FAILURE.
    """
    plugin = Plugin(node.config)
    node.metrics.append(plugin.figures)
    plugin.run(stop)


class Plugin:
    """The device plugin of the node that `where` describes. Raises CniError as `run`, and OSError."""

    def __init__(self, where: NodeConfig) -> None:
        self._began = time.monotonic()
        pools = config.load(Path(where.device_plugin), where.resource_prefix)
        _remove_stale_info(pools, where)
        self._where = where
        cdi.remove_stale(pools, where)
        self._services = [_service(pool, where) for pool in pools]
        self._follower = Follower(self._services, where.sysfs)

    def look_again(self) -> None:
        """Have the node's devices read again, as after a notice of the kernel; from any thread, while it runs."""
        self._follower.look_again()

    def figures(self) -> Iterator[Family]:
        """The pools' devices and what was given of them (`wirespeed.metrics`)."""
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
        for service in self._services:
            devices.add(service.pool.resource, value=service.offered)
            given.add(service.pool.resource, value=service.given)
            for address, fault in service.faults.items():
                unhealthy.add(service.pool.resource, address, fault.reason)
        yield from (devices, given, unhealthy)

    def run(self, stop: threading.Event) -> None:
        """Serve the pools until `stop` is set; once."""
        with contextlib.ExitStack() as end:
            end.callback(self._follower.close)
            self._follower.read()
            kubelet = Kubelet(self._services, Path(self._where.kubelet))
            end.callback(kubelet.close)
            kubelet.serve()
            fields = {"pools": len(self._services), "ms": (time.monotonic() - self._began) * 1000}
            log.info("the device plugin is ready", extra={"fields": fields})

            ended, ender = socket.socketpair()  # the one is readable when the other is closed
            end.callback(ended.close)
            waiter = threading.Thread(target=_close_after, args=(stop, ender), name="deviceplugin end", daemon=True)
            waiter.start()
            threads = end.enter_context(ThreadPoolExecutor(1, thread_name_prefix="deviceplugin devices"))
            end.callback(ender.close)
            following = threads.submit(self._follower.follow, ended.fileno())
            following.add_done_callback(lambda _: ender.close())  # one of the two fails: the other ends
            kubelet.follow(ended.fileno())
            following.result()
            waiter.join()


def _service(pool: PoolConfig, where: NodeConfig) -> PoolService:
    return PoolService(
        pool,
        sysfs=where.sysfs,
        devinfo=Path(where.devinfo),
        specs=cdi.specs(pool, where),
        annotate=where.cdi_annotations,
    )


def _close_after(stop: threading.Event, ender: socket.socket) -> None:
    stop.wait()
    ender.close()


def _remove_stale_info(pools: Sequence[PoolConfig], where: NodeConfig) -> None:
    """Remove the pools' device-info files of devices that are no more; those of running pods stay."""
    try:
        present = set(os.listdir(f"{where.sysfs}/bus/pci/devices"))
    except OSError:  # then nothing is known of any
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
