"""The format of netlink messages: headers, attributes, acknowledgements and errors (linux/netlink.h).

pyroute2 takes 1.6 ms to decode one link; an ADD decodes two. This codec packs with struct, and the modules beside
it handle only the attributes that are used. Tests compare them with pyroute2.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from wirespeed.kernel.netlink.errors import NetlinkError

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200  # flags of an NLMSG_ERROR
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000

_HEADER = struct.Struct("IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("HH")  # struct nlattr
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_NLMSGERR_ATTR_MSG = 1


class Message(NamedTuple):
    """A message: its type and flags, the sequence number of the request that it answers, and its payload."""

    kind: int
    flags: int
    sequence: int
    payload: bytes


def pack_message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Pack a request; the kernel fills in the sender's port."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, sequence, 0) + payload


def messages(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram: a dump has many in each."""
    offset = 0
    while offset < len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        yield Message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def raise_for_error(answer: Message) -> None:
    """Raise NetlinkError if the number of an NLMSG_ERROR or NLMSG_DONE is not 0 (0 is an acknowledgement).

    An NLMSG_DONE has another number if a dump ended before it was complete.
    """
    number = -struct.unpack_from("i", answer.payload)[0]
    if not number:
        return
    text = os.strerror(number)
    if answer.flags & NLM_F_ACK_TLVS:  # they follow the request, of which NLM_F_CAPPED leaves only the header
        if answer.kind == NLMSG_DONE:
            request = 0
        else:
            request = _HEADER.size if answer.flags & NLM_F_CAPPED else _HEADER.unpack_from(answer.payload, 4)[0]
        extended_ack = string(attributes(answer.payload, 4 + request).get(_NLMSGERR_ATTR_MSG))
        text += f" ({extended_ack})" if extended_ack else ""
    raise NetlinkError(number, text)


def attribute(kind: int, value: bytes) -> bytes:
    """Pack an attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Pack an attribute whose value is a sequence of packed attributes."""
    return attribute(kind | NLA_F_NESTED, value)


def u32(kind: int, value: int) -> bytes:
    """Pack a 32-bit attribute."""
    return attribute(kind, value.to_bytes(4, sys.byteorder))


def text(kind: int, value: str) -> bytes:
    """Pack a string attribute, zero-terminated."""
    return attribute(kind, value.encode() + b"\0")


def list_attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Return the (type, value) of all attributes in `data` from `offset` on."""
    found = []
    end, size, unpack = len(data), _ATTRIBUTE.size, _ATTRIBUTE.unpack_from
    while offset + size <= end:
        length, kind = unpack(data, offset)
        if length < size:
            break
        found.append((kind & _TYPE_MASK, data[offset + size : offset + length]))
        offset += (length + 3) & ~3
    return found


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return attributes by type; of several with the same type, the last."""
    return dict(list_attributes(data, offset))


def string(value: bytes | None) -> str:
    """Decode the value of a string attribute; "" for None, an attribute that is missing."""
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def number(value: bytes | None) -> int:
    """Decode the value of an integer attribute of any size; 0 for None, an attribute that is missing."""
    return int.from_bytes(value or b"", sys.byteorder)


def mac_bytes(mac: str) -> bytes:
    """Pack a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))
