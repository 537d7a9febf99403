"""What udev knows of devices, where it runs: names for people, and interfaces that it has yet to rename."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pyudev


def model(address: str) -> str:
    """What the hardware database calls a PCI device ("82576 Gigabit Network Connection"), "" without an answer."""
    try:
        device = pyudev.Devices.from_name(pyudev.Context(), "pci", address)
    except (pyudev.DeviceNotFoundError, ImportError):
        return ""
    return str(device.properties.get("ID_MODEL_FROM_DATABASE", ""))


def settle(names: Iterable[str], *, timeout: float, run: Path = Path("/run/udev/control")) -> None:
    """Wait up to `timeout` seconds until udev is done with these interfaces: it may give them other names.

    Nothing is waited for where no udev runs.
    """
    if not run.exists():
        return
    context = pyudev.Context()
    monitor = pyudev.Monitor.from_netlink(context)
    monitor.filter_by("net")
    monitor.start()  # before the first look, so that nothing is missed between
    deadline = time.monotonic() + timeout
    left = {name for name in names if not _is_done(context, name)}
    while left and (remaining := deadline - time.monotonic()) > 0:
        if monitor.poll(remaining) is not None:
            left = {name for name in left if not _is_done(context, name)}


def _is_done(context: pyudev.Context, name: str) -> bool:
    """Whether udev has processed the interface; one that is gone by that name has been renamed, or went."""
    try:
        return bool(pyudev.Devices.from_name(context, "net", name).is_initialized)
    except pyudev.DeviceNotFoundError:
        return True
