"""RDMA devices and the network namespaces that they belong to, by RDMA netlink (rdma/rdma_netlink.h)."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from wirespeed.host import netlink, netns
from wirespeed.host.rtnl import NetlinkError

_NETLINK_RDMA = 20  # linux/netlink.h
_NLDEV = 5 << 10  # RDMA_NL_GET_TYPE of RDMA_NL_NLDEV
_GET, _SET, _SYS_GET = _NLDEV + 1, _NLDEV + 2, _NLDEV + 6
_INDEX, _NAME, _NETNS_MODE, _NET_NS_FD = 1, 2, 66, 68


class Rdma:
    """An RDMA netlink socket in the calling thread's network namespace, or in the one open at `netns_fd`.

    It sees the RDMA devices of that namespace. Every request raises NetlinkError when the kernel refuses.
    """

    def __init__(self, *, netns_fd: int | None = None) -> None:
        def make() -> socket.socket:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_RDMA)

        try:
            self._socket = make() if netns_fd is None else netns.inside(netns_fd, make)
        except OSError as error:  # a kernel without RDMA
            raise NetlinkError(error.errno, error.strerror) from error

    def __enter__(self) -> Rdma:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exclusive(self) -> bool:
        """Whether each RDMA device belongs to one network namespace; otherwise all namespaces share all devices."""
        for answer in netlink.request(self._socket, _SYS_GET, 0, b""):
            return netlink.attributes(answer).get(_NETNS_MODE) == b"\0"
        return False

    def devices(self) -> dict[str, int]:
        """Return the RDMA devices of the namespace: index by name. A device keeps its index when it moves."""
        found = map(netlink.attributes, netlink.request(self._socket, _GET, netlink.DUMP, b""))
        return {netlink.string(each[_NAME]): struct.unpack("I", each[_INDEX])[0] for each in found}

    def move(self, index: int, netns_fd: int) -> None:
        """Move a device of this namespace to the one open at `netns_fd`. Disconnects applications that use it."""
        body = netlink.u32(_INDEX, index) + netlink.u32(_NET_NS_FD, netns_fd)
        for _ in netlink.request(self._socket, _SET, netlink.ACK, body):
            pass
