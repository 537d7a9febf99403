"""Read and set the eswitch mode of a PF with devlink."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code
from wirespeed.host.device import Device
from wirespeed.host.netlink.devlink import ESWITCH_MODES, Devlink


def mode(device: Device) -> str:
    """Return the kernel's name of the mode; "legacy" for a PF whose driver has no devlink eswitch.

    A mode of a newer kernel, whose name is not known here, is returned as its number.
    """
    try:
        with Devlink() as devlink:
            return devlink.eswitch_mode(device.BUS, device.address)
    except OSError:
        return ESWITCH_MODES[0]


def set_mode(device: Device, wanted: str) -> None:
    """Set the mode, which is as `mode` returns it. Raises CniError(DEVICE) with the driver's error."""
    try:
        with Devlink() as devlink:
            devlink.set_eswitch_mode(device.BUS, device.address, wanted)
    except OSError as error:
        raise CniError(Code.DEVICE, f"PF {device.address}: eswitch mode {wanted}: {error.strerror}") from error
