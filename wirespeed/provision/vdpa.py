"""vdpa devices of VFs: created and deleted by netlink, and bound to a driver of the vdpa bus."""

from __future__ import annotations

import os
from pathlib import Path

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from wirespeed.devices import drivers
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.errors import Error, Kind

# Queue pairs of a vdpa device, if the management device supports a choice; as in the SR-IOV network operator.
_PAIRS = 32

_Attribute = tuple[str, str | int]
_NEW, _DELETE = 3, 4  # enum vdpa_command in linux/vdpa.h


class _Message(genlmsg):  # type: ignore[misc]
    """A message of the vdpa netlink family, with the attributes used here (enum vdpa_attr in linux/vdpa.h)."""

    prefix = "VDPA_ATTR_"
    nla_map = (
        (1, "VDPA_ATTR_MGMTDEV_BUS_NAME", "asciiz"),
        (2, "VDPA_ATTR_MGMTDEV_DEV_NAME", "asciiz"),
        (4, "VDPA_ATTR_DEV_NAME", "asciiz"),
        (12, "VDPA_ATTR_DEV_NET_CFG_MAX_VQP", "uint16"),
    )


def create(mgmtdev: str, name: str, kind: str, sysfs: Path = Path("/sys")) -> None:
    """Create a vdpa device from the management device `mgmtdev` ("pci/0000:03:00.2", or a name without a bus).

    It is bound to the driver for `kind`, and deleted if that fails. Raises Error(DEVICE).
    """
    where = f"vdpa device {name} of {mgmtdev}"
    bus, _, device = mgmtdev.rpartition("/")
    handle: list[_Attribute] = [("VDPA_ATTR_MGMTDEV_BUS_NAME", bus)] if bus else []
    handle += [("VDPA_ATTR_MGMTDEV_DEV_NAME", device), ("VDPA_ATTR_DEV_NAME", name)]
    try:
        _request(_NEW, [*handle, ("VDPA_ATTR_DEV_NET_CFG_MAX_VQP", _PAIRS)], where)
    except Error:  # the management device supports fewer queue pairs, or no choice
        _request(_NEW, handle, where)
    try:
        # The kernel has bound it to whichever driver of the vdpa bus was registered first.
        drivers.bind(VdpaDevice(name, sysfs), f"{kind}_vdpa")
    except Error:
        delete(name, sysfs)
        raise


def delete(name: str, sysfs: Path = Path("/sys")) -> None:
    """Delete a vdpa device, if it exists. Raises Error(DEVICE)."""
    if VdpaDevice(name, sysfs).exists:
        _request(_DELETE, [("VDPA_ATTR_DEV_NAME", name)], f"vdpa device {name}")


def _request(command: int, attributes: list[_Attribute], where: str) -> None:
    message = _Message()
    message["cmd"], message["version"], message["attrs"] = command, 1, attributes
    try:
        with GenericNetlinkSocket() as asking:
            asking.bind("vdpa", _Message)
            asking.nlm_request(message, msg_type=asking.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK)
    except NetlinkError as error:
        raise Error(Kind.DEVICE, os.strerror(error.code), where=where) from error
