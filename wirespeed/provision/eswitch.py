"""Reads and sets the eswitch mode of a PF by devlink."""

from __future__ import annotations

import os
from typing import Any

from pyroute2.devlink import DL
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd
from pyroute2.netlink.exceptions import NetlinkError

from wirespeed import errors
from wirespeed.devices.device import Device
from wirespeed.errors import Error, Kind

_MODES = ("legacy", "switchdev", "switchdev_inactive")  # by number: linux/devlink.h, enum devlink_eswitch_mode


def mode(device: Device) -> str:
    """Return the kernel's name of the mode; "legacy" for a PF whose driver has no devlink eswitch.

    A mode of a newer kernel, whose name is not known here, is returned as its number.
    """
    try:
        answers = _request("DEVLINK_CMD_ESWITCH_GET", device, NLM_F_REQUEST)
    except (NetlinkError, OSError):
        return _MODES[0]
    number = (answers[0].get_attr("DEVLINK_ATTR_ESWITCH_MODE") if answers else 0) or 0
    return _MODES[number] if number < len(_MODES) else str(number)


def set_mode(device: Device, wanted: str) -> None:
    """Set the mode, which is as `mode` returns it. Raises Error(DEVICE) with the driver's error."""
    where = f"PF {device.address}: eswitch mode {wanted}"
    chosen = ("DEVLINK_ATTR_ESWITCH_MODE", _MODES.index(wanted) if wanted in _MODES else int(wanted))
    try:
        _request("DEVLINK_CMD_ESWITCH_SET", device, NLM_F_REQUEST | NLM_F_ACK, chosen)
    except NetlinkError as error:
        raise Error(Kind.DEVICE, os.strerror(error.code), where=where) from error
    except OSError as error:
        raise errors.as_error(error, where).of_kind(Kind.DEVICE) from error


def _request(command: str, device: Device, flags: int, *more: tuple[str, int]) -> list[Any]:
    message = devlinkcmd()
    message["cmd"], message["version"] = DEVLINK_NAMES[command], 1
    message["attrs"] = [
        ("DEVLINK_ATTR_BUS_NAME", device.BUS),
        ("DEVLINK_ATTR_DEV_NAME", device.address),
        *more,
    ]
    with DL() as devlink:
        return list(devlink.nlm_request(message, msg_type=devlink.prid, msg_flags=flags))
