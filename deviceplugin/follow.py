"""Follows the node's devices: the pools have them as they are, within a fraction of a second."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Sequence

from deviceplugin.pools import Devices, assign, some
from deviceplugin.service import PoolService
from wirespeed.host.inventory import Inventory, Reader
from wirespeed.host.routes import DefaultRouteEvents, default_route_interfaces
from wirespeed.host.uevents import DeviceEvents

log = logging.getLogger(__name__)

_SETTLE = 100  # ms from the first notice to the look: devices come and go in bursts


class Follower:
    """Reads the node's devices, and reads them again when the kernel tells that they may have changed.

    One thread at a time reads and follows, `look_again` may be called by any. Raises OSError.
    """

    def __init__(self, services: Sequence[PoolService], sysfs: str) -> None:
        self._services = services
        self._reader = Reader(sysfs)
        self._inventory = Inventory()
        self._found: dict[str, Devices] = {service.pool.resource: {} for service in services}
        with contextlib.ExitStack() as opened:
            self._changes = opened.enter_context(contextlib.closing(DeviceEvents()))
            self._routes = opened.enter_context(contextlib.closing(DefaultRouteEvents()))
            self._asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.callback(os.close, self._asked)
            self.close = opened.pop_all().close

    def read(self) -> None:
        """Read all devices, and give them to their pools."""
        began = time.monotonic()
        left_out = self._inventory.left_out
        self._inventory = self._reader.read(default_route_interfaces())
        _log_left_out(left_out, self._inventory.left_out)
        before, self._found = self._found, assign([service.pool for service in self._services], self._inventory)
        # A device that changes its pool leaves the one before it comes to the other.
        for resource, devices in before.items():
            before[resource] = {key: device for key, device in self._found[resource].items() if key in devices}
        for found in (before, self._found):
            for service in self._services:
                service.update(found[service.pool.resource])
        log.debug("devices are read", extra={"fields": {"ms": (time.monotonic() - began) * 1000}})

    def follow(self, ended: int) -> None:
        """Read again after each change, until the descriptor `ended` is readable."""
        poller, end = select.poll(), select.poll()
        end.register(ended, select.POLLIN)
        for file in (ended, self._asked, self._changes.fileno(), self._routes.fileno()):
            poller.register(file, select.POLLIN)
        while ended not in dict(poller.poll()):
            if not self._take():
                continue
            if end.poll(_SETTLE):
                return
            self._take()  # what comes from here on is for the next round
            self.read()

    def look_again(self) -> None:
        """Have `follow` read all devices again, as after a notice of the kernel."""
        os.eventfd_write(self._asked, 1)

    def _take(self) -> bool:
        """Take all notices; whether one of them may change a pool."""
        asked = False
        with contextlib.suppress(BlockingIOError):
            asked = os.eventfd_read(self._asked) > 0
        routes, changes = self._routes.drain(), self._changes.drain()
        if asked or routes or changes.lost or changes.devices:
            return True
        return not all(self._is_as_read(address) for address in changes.interfaces)

    def _is_as_read(self, address: str) -> bool:
        """Whether it is a VF that has not changed.

        Each pod moves the interface of its VF, which changes nothing here and must not cost a look at all devices.
        That of a PF names all its VFs.
        """
        device = self._inventory.devices.get(address)
        return device is not None and bool(device.pf) and device == self._reader.read_one(address)


def _log_left_out(before: dict[str, str], now: dict[str, str]) -> None:
    """Say which devices are left out that were not, or for another reason; one line a reason."""
    by_reason: dict[str, list[str]] = {}
    for address, reason in now.items():
        if before.get(address) != reason:
            by_reason.setdefault(reason, []).append(address)
    for reason, addresses in sorted(by_reason.items()):
        log.info("left out: %s", reason, extra={"fields": {"devices": some(addresses)}})
