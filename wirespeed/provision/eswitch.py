"""Read and set the eswitch mode of a PF with devlink."""

from __future__ import annotations

import os
from typing import Any

from pyroute2.devlink import DL
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd
from pyroute2.netlink.exceptions import NetlinkError

from wirespeed.cni.errors import CniError, Code
from wirespeed.host.device import Device

_MODES = ("legacy", "switchdev")  # linux/devlink.h: DEVLINK_ESWITCH_MODE_LEGACY is 0


def mode(device: Device) -> str:
    """Return "legacy" or "switchdev"; "legacy" for a PF whose driver has no devlink eswitch."""
    try:
        answers = _request("DEVLINK_CMD_ESWITCH_GET", device, NLM_F_REQUEST)
    except (NetlinkError, OSError):
        return _MODES[0]
    number = answers[0].get_attr("DEVLINK_ATTR_ESWITCH_MODE") if answers else 0
    return _MODES[number or 0]


def set_mode(device: Device, wanted: str) -> None:
    """Set the mode. Raises CniError(DEVICE) with the driver's error."""
    where = f"PF {device.address}: eswitch mode {wanted}"
    chosen = ("DEVLINK_ATTR_ESWITCH_MODE", _MODES.index(wanted))
    try:
        _request("DEVLINK_CMD_ESWITCH_SET", device, NLM_F_REQUEST | NLM_F_ACK, chosen)
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"{where}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise CniError(Code.DEVICE, f"{where}: {error.strerror}") from error


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
