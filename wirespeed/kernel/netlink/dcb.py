"""Data center bridging of an interface: priority flow control, IEEE 802.1Qbb (linux/dcbnl.h)."""

from __future__ import annotations

import errno
import struct

from wirespeed.kernel.netlink.codec import attributes, text
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.socket import NETLINK_ROUTE, NetlinkSocket

_RTM_GETDCB, _IEEE_GET = 78, 21  # linux/rtnetlink.h, DCB_CMD_IEEE_GET
_IFNAME, _IEEE, _IEEE_PFC = 1, 13, 2  # DCB_ATTR_IFNAME, DCB_ATTR_IEEE, DCB_ATTR_IEEE_PFC
_DCBMSG = struct.Struct("BBH")  # struct dcbmsg: family, command, padding
_PFC = struct.Struct(
    "BB"
)  # the first fields of a struct ieee_pfc: how many priorities it can have, and which it has


def priorities(name: str) -> tuple[int, ...] | None:
    """Return the priorities with flow control; None if the driver does not report it, or the interface is gone."""
    try:
        with NetlinkSocket(NETLINK_ROUTE) as kernel:
            answers = kernel.request(_RTM_GETDCB, 0, _DCBMSG.pack(0, _IEEE_GET, 0) + text(_IFNAME, name))
            return unpack(next(answers).payload)
    except NetlinkError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL}:  # EINVAL: a kernel without DCB
            return None
        raise


def unpack(payload: bytes) -> tuple[int, ...] | None:
    """Return the priorities with flow control in an answer, from its struct dcbmsg on; None if it has none."""
    found = attributes(attributes(payload, _DCBMSG.size).get(_IEEE, b"")).get(_IEEE_PFC)
    if found is None:
        return None
    _, enabled = _PFC.unpack_from(found)
    return tuple(bit for bit in range(8) if enabled >> bit & 1)
