"""Updates the pools within a fraction of a second after a change of the node's devices."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path

from wirespeed.deviceplugin.config import VHOST_USER
from wirespeed.deviceplugin.health import Fault, Health
from wirespeed.deviceplugin.pools import Devices, abbreviate, assign, firmware, reader
from wirespeed.deviceplugin.service import PoolService
from wirespeed.devices.inventory import Inventory
from wirespeed.devices.reporters import health_reporters
from wirespeed.kernel.netlink.devlink import Reporter
from wirespeed.kernel.routes import DefaultRouteEvents, default_route_interfaces
from wirespeed.kernel.uevents import DeviceEvents
from wirespeed.system.inotify import WATCH_ENDED, FolderWatch

log = logging.getLogger(__name__)

_SETTLE = 100  # ms between the first notification and reading, because notifications come in bursts
# ms between checks of PFs: no notification reports PCIe errors, and that of a link change comes late.
_CHECK_INTERVAL = 500


class Follower:
    """Reads the node's devices, and reads them again when the kernel reports changes.

    `read` and `follow` need a single thread; `request_read` and `set_services` are thread-safe. Raises OSError.
    """

    def __init__(self, services: Sequence[PoolService], sysfs: str) -> None:
        self._services = services
        self._reader = reader([service.pool for service in services], sysfs)
        self._health = Health(sysfs, reporters=self._reporters_in_error)
        self._inventory = Inventory()
        self._found: dict[str, Devices] = {}
        self._vfio: FolderWatch | None = None
        with contextlib.ExitStack() as opened:
            self._changes = opened.enter_context(contextlib.closing(DeviceEvents()))
            self._routes = opened.enter_context(contextlib.closing(DefaultRouteEvents()))
            self._requested = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.callback(os.close, self._requested)
            self._reporters = health_reporters(self.request_read)
            if self._reporters:
                opened.callback(self._reporters.close)
            self.close = opened.pop_all().close

    @property
    def reporters_in_error(self) -> frozenset[Reporter]:
        """The devlink health reporters in error. Thread-safe."""
        return self._reporters.in_error if self._reporters else frozenset()

    def set_services(self, services: Sequence[PoolService]) -> None:
        """Use these pools from now on, and read all devices again. Thread-safe."""
        self._services = services
        self._reader.firmware = firmware(service.pool for service in services)
        self.request_read()

    def read(self) -> None:
        """Read all devices and assign them to their pools, with their faults."""
        began = time.monotonic()
        services = self._services
        left_out = self._inventory.left_out
        self._watch_vfio()
        self._inventory = self._reader.read(default_route_interfaces())
        _log_left_out(left_out, self._inventory.left_out)
        before, self._found = self._found, assign([service.pool for service in services], self._inventory)
        faults = self._faults(services, before)
        # A device that moves to another pool must leave its old pool first.
        for service in services:
            found = self._found[service.pool.resource]
            stays = {key: found[key] for key in before.get(service.pool.resource, ()) if key in found}
            service.update(stays, faults)
        for service in services:
            service.update(self._found[service.pool.resource], faults)
        log.debug("devices are read", extra={"fields": {"ms": (time.monotonic() - began) * 1000}})

    def follow(self, ended: int) -> None:
        """Read again after each change, until the descriptor `ended` is readable."""
        end = select.poll()
        end.register(ended, select.POLLIN)
        while not end.poll(0):
            if not self._waits_for_change(ended):
                continue
            if end.poll(_SETTLE):
                return
            self._drain()  # later notifications are for the next round
            self.read()

    def _waits_for_change(self, ended: int) -> bool:
        """Wait up to _CHECK_INTERVAL ms for notifications; return whether a pool may have changed."""
        poller = select.poll()
        for file in (ended, self._requested, self._changes, self._routes, self._vfio, self._reporters):
            if file is not None:
                poller.register(file, select.POLLIN)
        poller.poll(_CHECK_INTERVAL)
        files_removed = any(service.is_cdi_file_removed for service in self._services)
        return self._drain() or self._health.needs_refresh() or files_removed

    def _faults(self, services: Sequence[PoolService], before: dict[str, Devices]) -> dict[str, Fault]:
        """Return the faults by address. A device that a pool lost by a fault stays in the pool."""
        members = {key: device for devices in self._found.values() for key, device in devices.items()}
        self._health.refresh(members)
        faults: dict[str, Fault] = {}
        for service in services:
            found, wanted = self._found[service.pool.resource], service.pool.health
            for key, device in found.items():
                if fault := self._health.fault(device, wanted):
                    faults[key] = fault
            for key, device in before.get(service.pool.resource, {}).items():
                if (
                    device.kind != VHOST_USER
                    and key not in members
                    and (fault := self._health.lost(device, self._inventory, wanted))
                ):
                    found[key], faults[key] = device, fault
        return faults

    def _reporters_in_error(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for reporter in sorted(self.reporters_in_error):
            found.setdefault(reporter.device, []).append(reporter.name)
        return found

    def _watch_vfio(self) -> None:
        """Watch the folder of the vfio nodes as soon as it exists."""
        if self._vfio is None or any(event.mask & WATCH_ENDED for event in self._vfio.events()):
            with contextlib.suppress(FileNotFoundError):
                self._vfio = FolderWatch(Path(self._health.vfio))

    def request_read(self) -> None:
        """Make `follow` read all devices again, as after a notification from the kernel."""
        os.eventfd_write(self._requested, 1)

    def _drain(self) -> bool:
        """Consume all notifications; return whether one of them may change a pool."""
        requested = False
        with contextlib.suppress(BlockingIOError):
            requested = os.eventfd_read(self._requested) > 0
        routes, changes = self._routes.drain(), self._changes.drain()
        nodes = self._vfio.events() if self._vfio else ()
        reported = self._reporters.drain() if self._reporters else False
        if requested or routes or changes.lost or changes.devices or nodes or reported:
            return True
        return not all(self._is_unchanged(address) for address in changes.interfaces)

    def _is_unchanged(self, address: str) -> bool:
        """Whether it is a VF that is the same as when it was read last.

        Each pod moves the netdev of its VF. This does not affect pools, and must not cause reading of all devices.
        Always false for a PF: the name of its netdev is a property of all its VFs.
        """
        device = self._inventory.devices.get(address)
        return device is not None and bool(device.pf) and device == self._reader.read_one(address)


def _log_left_out(before: dict[str, str], now: dict[str, str]) -> None:
    """Log devices that are left out now, or for another reason than before, in one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for address, reason in now.items():
        if before.get(address) != reason:
            by_reason.setdefault(reason, []).append(address)
    for reason, addresses in sorted(by_reason.items()):
        log.info("left out: %s", reason, extra={"fields": {"devices": abbreviate(addresses)}})
