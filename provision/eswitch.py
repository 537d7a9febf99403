"""The mode of a PF's embedded switch, by devlink."""

from __future__ import annotations

import os
from typing import Any

from pyroute2.devlink import DL
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd
from pyroute2.netlink.exceptions import NetlinkError

from wirespeed.cni.errors import CniError, Code

_MODES = ("legacy", "switchdev")  # linux/devlink.h: DEVLINK_ESWITCH_MODE_LEGACY is 0


def mode(address: str) -> str:
    """The mode, "legacy" or "switchdev"; a PF whose driver has no devlink eswitch works the legacy way."""
    try:
        answers = _request("DEVLINK_CMD_ESWITCH_GET", address, NLM_F_REQUEST)
    except (NetlinkError, OSError):
        return _MODES[0]
    number = answers[0].get_attr("DEVLINK_ATTR_ESWITCH_MODE") if answers else 0
    return _MODES[number or 0]


def set_mode(address: str, wanted: str) -> None:
    """Set it. Raises CniError(DEVICE) with what the driver answers."""
    chosen = ("DEVLINK_ATTR_ESWITCH_MODE", _MODES.index(wanted))
    try:
        _request("DEVLINK_CMD_ESWITCH_SET", address, NLM_F_REQUEST | NLM_F_ACK, chosen)
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"PF {address}: eswitch mode {wanted}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise CniError(Code.DEVICE, f"PF {address}: eswitch mode {wanted}: {error.strerror}") from error


def _request(command: str, address: str, flags: int, *more: tuple[str, int]) -> list[Any]:
    message = devlinkcmd()
    message["cmd"], message["version"] = DEVLINK_NAMES[command], 1
    message["attrs"] = [("DEVLINK_ATTR_BUS_NAME", "pci"), ("DEVLINK_ATTR_DEV_NAME", address), *more]
    with DL() as devlink:
        return list(devlink.nlm_request(message, msg_type=devlink.prid, msg_flags=flags))
