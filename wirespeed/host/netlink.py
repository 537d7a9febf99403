"""What the netlink families have in common: a request and its answers, and attributes (linux/netlink.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from wirespeed.host.rtnl import NetlinkError

REQUEST, ACK, DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("IHHII")


def request(asking: socket.socket, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Send one request; yield the payload of each answer. Raises NetlinkError if the kernel refuses."""
    asking.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, 1, 0) + body)
    while True:
        for answer, payload in messages(asking.recv(1 << 16)):
            if answer in {_ERROR, _DONE}:  # _DONE too has an error, if a dump ends before it is complete
                if number := -struct.unpack_from("i", payload)[0]:
                    raise NetlinkError(number, os.strerror(number))
                return
            yield payload
        if not flags:
            return


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the payload of each message in one datagram."""
    offset = 0
    while offset < len(data):
        length, kind = _HEADER.unpack_from(data, offset)[:2]
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by type; of several with the same type, the last."""
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def u32(kind: int, value: int) -> bytes:
    """Pack a 32-bit attribute."""
    return struct.pack("HHI", 8, kind, value)


def text(kind: int, value: str) -> bytes:
    """Pack a string attribute, zero-terminated."""
    data = value.encode() + b"\0"
    return struct.pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def string(value: bytes) -> str:
    """Decode the value of a string attribute."""
    return value.rstrip(b"\0").decode(errors="replace")
