"""Binding devices to drivers of their bus."""

from __future__ import annotations

import subprocess
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices.device import Device
from wirespeed.devices.pci import PciDevice


def bind(device: Device, driver: str) -> None:
    """Bind the device to `driver`; with "", the kernel chooses one.

    Does nothing if that driver is already bound, or with "" any driver that is not for user space. If the new
    driver does not accept the device, the old one is bound again. Raises CniError(DEVICE) with the kernel's answer
    and, for vfio-pci on a device without an IOMMU group, a hint at that.
    """
    before = device.driver
    if before and (before == driver or (not driver and not device.is_in_user_space)):
        return
    if driver:
        _load(device, driver)
    try:
        _rebind(device, driver)
    except CniError:
        if before:
            _rebind(device, before)
        raise


def put_back(device: PciDevice, driver: str, override: str) -> None:
    """Restore the driver ("" for none) and the driver_override of the device.

    Works from any state that an interrupted `bind` left. Raises CniError(DEVICE).
    """
    if driver:
        bind(device, driver)
    elif device.driver:
        _write(device, "driver/unbind", device.address)
    now = device.attribute("driver_override")
    if now != override:
        _write(device, "driver_override", f"{override.replace('(null)', '')}\n")


def reprobe(device: PciDevice, driver: str) -> None:
    """Unbind the device from `driver`, if it is bound, and bind it again.

    Some drivers read the PF's settings of a VF only when they probe it. Raises CniError(DEVICE).
    """
    if device.driver:
        _write(device, "driver/unbind", device.address)
    try:
        (device.sysfs / "bus/pci/drivers" / driver / "bind").write_text(device.address)
    except OSError as error:
        raise CniError(
            Code.DEVICE, f"device {device.address}: binding it to {driver} again: {error.strerror}"
        ) from error


def reset(device: PciDevice) -> None:
    """Reset the function, if the device supports it, to clear what its last user left. Raises CniError(DEVICE)."""
    if (device.path / "reset").exists():
        _write(device, "reset", "1")


def _write(device: Device, name: str, text: str) -> None:
    try:
        (device.path / name).write_text(text)
    except OSError as error:
        raise CniError(Code.DEVICE, f"device {device.address}: {name}: {error.strerror}") from error


def _load(device: Device, driver: str) -> None:
    """Make sure that the driver is registered on the bus; load the module of the same name if it is not."""
    folder = device.sysfs / "bus" / device.BUS / "drivers" / driver
    if folder.exists():
        return
    done = subprocess.run(["modprobe", "--", driver], capture_output=True, text=True, check=False)
    if not folder.exists():
        said = done.stderr.strip() or f"its module loaded, and there is no such driver of the bus {device.BUS}"
        raise CniError(Code.DEVICE, f"device {device.address}: driver {driver} is not there: {said}")


def _rebind(device: Device, driver: str) -> None:
    """Bind the device to another driver: set driver_override, unbind, and probe this device alone."""
    where = f"device {device.address}: binding it to {driver or 'its own driver'}"
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
        raise CniError(Code.DEVICE, f"{where}: {Path(error.filename or '').name}: {error.strerror}") from error
    now = device.driver
    if not now or (driver and now != driver):
        hint = ""
        if driver == "vfio-pci" and isinstance(device, PciDevice) and not device.iommu_group:
            hint = "; it has no IOMMU group: is the IOMMU on (intel_iommu=on) in firmware and kernel?"
        raise CniError(Code.DEVICE, f"{where}: it has {now or 'no driver'} now{hint}")
