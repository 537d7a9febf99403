"""Generic netlink: families that the kernel numbers when they are registered (linux/genetlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wirespeed.kernel.netlink.codec import attributes, number, string, text
from wirespeed.kernel.netlink.socket import NETLINK_GENERIC, NetlinkSocket

GENLMSGHDR = struct.Struct("BBH")  # struct genlmsghdr: command, version, reserved

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME, _CTRL_ATTR_MCAST_GROUPS = 1, 2, 7
_GRP_NAME, _GRP_ID = 1, 2  # CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID


class GenericSocket(NetlinkSocket):
    """A socket for requests to one family, whose number is `family`; `groups` are its multicast groups by name.

    Raises NetlinkError, with ENOENT if the kernel does not have the family.
    """

    def __init__(self, name: str) -> None:
        super().__init__(NETLINK_GENERIC)
        self.family = _GENL_ID_CTRL
        try:
            [answer] = self.command(_CTRL_CMD_GETFAMILY, text(_CTRL_ATTR_FAMILY_NAME, name))
        except OSError:
            self.close()
            raise
        seen = attributes(answer, GENLMSGHDR.size)
        self.family = number(seen[_CTRL_ATTR_FAMILY_ID])
        groups = map(attributes, attributes(seen.get(_CTRL_ATTR_MCAST_GROUPS, b"")).values())
        self.groups = {string(each[_GRP_NAME]): number(each[_GRP_ID]) for each in groups}

    def command(self, command: int, packed: bytes = b"", flags: int = 0) -> Iterator[bytes]:
        """Send a command with packed attributes; yield the answers from their genlmsghdr on, as `request` does."""
        for answer in self.request(self.family, flags, GENLMSGHDR.pack(command, 1, 0) + packed):
            yield answer.payload
