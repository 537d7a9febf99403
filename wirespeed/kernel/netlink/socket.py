"""Netlink sockets of all families: requests and their answers, and notifications, in any network namespace."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Collection, Iterator
from typing import Self

from wirespeed.kernel import netns
from wirespeed.kernel.netlink.codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    messages,
    pack_message,
    raise_for_error,
)

# linux/netlink.h
NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC, NETLINK_RDMA = 0, 15, 16, 20
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
_SOL_NETLINK = 270  # linux/socket.h

_LONGEST = 1 << 18  # bytes of an answer: that of a PF with 256 VFs takes a fifth of it


class _Local(threading.local):
    """A buffer for one datagram in each thread. Allocating one takes longer than most requests."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_LONGEST))


_local = _Local()


class NetlinkSocket:
    """A netlink socket in the calling thread's network namespace, or in the one open at `netns_fd`.

    `options` are socket options to switch on. Not shared between threads. Every request raises NetlinkError if the
    kernel refuses it.
    """

    def __init__(self, protocol: int, *, netns_fd: int | None = None, options: Collection[int] = ()) -> None:
        def opened() -> socket.socket:
            created = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            for option in options:
                created.setsockopt(_SOL_NETLINK, option, 1)
            return created

        self._socket = opened() if netns_fd is None else netns.inside(netns_fd, opened)
        self._sequence = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    def request(self, kind: int, flags: int, payload: bytes) -> Iterator[Message]:
        """Send a request; yield its one answer, or with NLM_F_DUMP or NLM_F_ACK all answers up to the last."""
        self._sequence += 1
        self._socket.send(pack_message(kind, flags, self._sequence, payload))
        multipart = flags & NLM_F_DUMP == NLM_F_DUMP or flags & NLM_F_ACK
        while True:
            buffer = _local.buffer
            size = self._socket.recv_into(buffer)
            for answer in messages(bytes(buffer[:size])):
                if answer.sequence != self._sequence:
                    continue  # the rest of an earlier answer that was not read to its end
                if answer.kind in {NLMSG_ERROR, NLMSG_DONE}:
                    raise_for_error(answer)
                    return
                yield answer
                if not multipart:
                    return

    def do(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Send a request and wait for its acknowledgement."""
        for _ in self.request(kind, NLM_F_ACK | flags, payload):
            pass

    # Notifications

    def subscribe(self, *, groups: int = 0, group: int = 0) -> None:
        """Receive the kernel's notifications: `groups` is a bit mask of its first 32 groups, `group` a number."""
        self._socket.setblocking(False)
        self._socket.bind((0, groups))  # without groups too: an unbound socket gets no notifications
        if group:
            self._socket.setsockopt(_SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def notifications(self) -> Iterator[bytes | None]:
        """Yield the datagrams that have arrived, without waiting; None if some were lost as the buffer was full."""
        while True:
            buffer = _local.buffer
            try:
                size, sender = self._socket.recvfrom_into(buffer)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
            else:
                if sender[0] == 0:  # port 0 is the kernel: a process cannot forge it
                    yield bytes(buffer[:size])
