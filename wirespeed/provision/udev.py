"""What udev knows about devices, if it runs: model names, and interfaces that it still has to rename."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pyudev


def model(address: str) -> str:
    """Return a PCI device's model in udev's hardware database ("82576 Gigabit Network Connection"), or ""."""
    try:
        device = pyudev.Devices.from_name(pyudev.Context(), "pci", address)
    except (pyudev.DeviceNotFoundError, ImportError):
        return ""
    return str(device.properties.get("ID_MODEL_FROM_DATABASE", ""))


def settle(names: Iterable[str], *, timeout: float, run: Path = Path("/run/udev/control")) -> None:
    """Wait up to `timeout` seconds until udev, if it runs, has processed these interfaces: it may rename them."""
    if not run.exists():
        return
    context = pyudev.Context()
    monitor = pyudev.Monitor.from_netlink(context)
    monitor.filter_by("net")
    monitor.start()  # before the first check, so that no event is missed in between
    deadline = time.monotonic() + timeout
    left = {name for name in names if not _is_done(context, name)}
    while left and (remaining := deadline - time.monotonic()) > 0:
        if monitor.poll(remaining) is not None:
            left = {name for name in left if not _is_done(context, name)}


def _is_done(context: pyudev.Context, name: str) -> bool:
    """Return whether udev has processed the interface. An unknown name is done: it was renamed or removed."""
    try:
        return bool(pyudev.Devices.from_name(context, "net", name).is_initialized)
    except pyudev.DeviceNotFoundError:
        return True
