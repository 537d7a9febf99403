"""RDMA devices and the network namespaces that they belong to, over RDMA netlink (rdma/rdma_netlink.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

from wirespeed.host import netns
from wirespeed.host.rtnl import NetlinkError

_NETLINK_RDMA = 20  # linux/netlink.h
_NLDEV = 5 << 10  # RDMA_NL_GET_TYPE of RDMA_NL_NLDEV
_GET, _SET, _SYS_GET = _NLDEV + 1, _NLDEV + 2, _NLDEV + 6
_INDEX, _NAME, _NETNS_MODE, _NET_NS_FD = 1, 2, 66, 68
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("IHHII")


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
        """Whether each RDMA device belongs to one network namespace; otherwise all share all of them."""
        for attributes in self._request(_SYS_GET, 0, b""):
            return attributes.get(_NETNS_MODE) == b"\0"
        return False

    def devices(self) -> dict[str, int]:
        """The RDMA devices of the namespace: numbers by name. A number stays with its device when it moves."""
        return {
            found[_NAME].rstrip(b"\0").decode(): struct.unpack("I", found[_INDEX])[0]
            for found in self._request(_GET, _DUMP, b"")
        }

    def move(self, index: int, netns_fd: int) -> None:
        """Move a device of this namespace to the one open at `netns_fd`. Closes what its applications have open."""
        for _ in self._request(_SET, _ACK, _u32(_INDEX, index) + _u32(_NET_NS_FD, netns_fd)):
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[dict[int, bytes]]:
        """Send one request; the attributes of each of its answers."""
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body)
        while True:
            data, offset = self._socket.recv(1 << 16), 0
            while offset < len(data):
                length, answer = _HEADER.unpack_from(data, offset)[:2]
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if answer == _ERROR and (number := -struct.unpack_from("i", payload)[0]):
                    raise NetlinkError(number, os.strerror(number))
                if answer in {_ERROR, _DONE}:
                    return
                yield _attributes(payload)
            if not flags:
                return


def _u32(kind: int, value: int) -> bytes:
    return struct.pack("HHI", 8, kind, value)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
