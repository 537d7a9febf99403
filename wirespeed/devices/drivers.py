"""Binding devices to drivers of their bus."""

from __future__ import annotations

import subprocess
from pathlib import Path

from wirespeed.devices.device import Device
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind, Thing


def bind(device: Device, driver: str) -> None:
    """Bind the device to `driver`; with "", the kernel chooses one.

    Does nothing if that driver is already bound, or with "" any driver that is not for user space. If the new
    driver does not accept the device, the old one is bound again. Raises Error(DEVICE) with the kernel's error
    and, for vfio-pci on a device without an IOMMU group, a hint about that.
    """
    before = device.driver
    if before and (before == driver or (not driver and not device.is_in_user_space)):
        return
    if driver:
        _load(device, driver)
    try:
        _rebind(device, driver)
    except Error:
        if before:
            _rebind(device, before)
        raise


def put_back(device: PciDevice, driver: str, override: str) -> None:
    """Restore driver ("" for none) and driver_override, also after an interrupted `bind`. Raises Error(DEVICE)."""
    if driver:
        bind(device, driver)
    elif device.driver:
        _write(device, "driver/unbind", device.address)
    if device.attribute("driver_override") != override:
        _write(device, "driver_override", f"{override.replace('(null)', '')}\n")


def reprobe(device: PciDevice, driver: str) -> None:
    """Unbind the device from `driver`, if it is bound, and bind it again.

    Some drivers read the PF's settings of a VF only when they probe it. Raises Error(DEVICE).
    """
    if device.driver:
        _write(device, "driver/unbind", device.address)
    try:
        (device.sysfs / "bus/pci/drivers" / driver / "bind").write_text(device.address)
    except OSError as error:
        raise _error(device, f"binding it to {driver} again: {error.strerror}") from error


def reset(device: PciDevice) -> None:
    """Reset the function, to clear what its last user left, if the device supports that. Raises Error(DEVICE)."""
    if (device.path / "reset").exists():
        _write(device, "reset", "1")


def _write(device: Device, name: str, text: str) -> None:
    try:
        (device.path / name).write_text(text)
    except OSError as error:
        raise _error(device, f"{name}: {error.strerror}") from error


def _error(device: Device, what: str, *, hint: str = "") -> Error:
    return Error(Kind.DEVICE, what, where=Thing("device", device.address), hint=hint)


def _load(device: Device, driver: str) -> None:
    """Make sure that the driver is registered on the bus; load the module of the same name if it is not."""
    folder = device.sysfs / "bus" / device.BUS / "drivers" / driver
    if folder.exists():
        return
    done = subprocess.run(["modprobe", "--", driver], capture_output=True, text=True, check=False)
    if not folder.exists():
        reason = done.stderr.strip() or f"its module was loaded, but the bus {device.BUS} has no such driver"
        raise _error(device, f"there is no driver {driver}: {reason}")


def _rebind(device: Device, driver: str) -> None:
    """Bind the device to another driver: set driver_override, unbind, and probe this device alone."""
    what = f"binding it to {driver or 'its own driver'}"
    try:
        (device.path / "driver_override").write_text(f"{driver}\n")
        try:
            if device.driver:
                (device.path / "driver/unbind").write_text(device.address)
            (device.sysfs / "bus" / device.BUS / "drivers_probe").write_text(device.address)
        finally:
            # The kernel keeps an override until an empty line clears it.
            (device.path / "driver_override").write_text("\n")
    except OSError as error:
        raise _error(device, f"{what}: {Path(error.filename or '').name}: {error.strerror}") from error
    now = device.driver
    if not now or (driver and now != driver):
        hint = ""
        if driver == "vfio-pci" and isinstance(device, PciDevice) and not device.iommu_group:
            hint = "it has no IOMMU group: is the IOMMU on (intel_iommu=on) in firmware and kernel?"
        raise _error(device, f"{what}: it has {now or 'no driver'} now", hint=hint)
