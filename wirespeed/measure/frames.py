"""The frames of a measurement: their layout, and the packet filter that lets only those of one trial pass.

    destination, source   6 bytes each
    EtherType             0x88B5, for local experiments (IEEE 802)
    mark                  4 bytes, the same in all trials
    trial                 4 bytes, in network byte order
    number                8 bytes, from 0
    sent                  8 bytes, CLOCK_REALTIME in ns
    zeros                 up to the frame's size

Both ends are on one machine, so `number` and `sent` are in its byte order. CLOCK_REALTIME is the clock by which the
kernel stamps received frames, and unlike CLOCK_MONOTONIC it is the same in all time namespaces.
"""

from __future__ import annotations

import struct

HEADER = 14  # bytes of an Ethernet header
ETHERTYPE = 0x88B5
MARK = b"wspd"
# Offsets of the two fields that differ from frame to frame.
NUMBER, SENT = 22, 30
KEPT = 64  # bytes of a received frame that are worth copying

MINIMUM = 64  # bytes, with FCS
RFC2544_SIZES = (64, 128, 256, 512, 1024, 1280, 1518)  # section 9.1

# linux/filter.h: code, jump if true, jump if false, value
_INSTRUCTION = struct.Struct("HBBI")
_LOAD_HALF, _LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x20, 0x15, 0x06


def template(destination: bytes, source: bytes, trial: int, length: int) -> bytes:
    """Return a frame of `length` bytes (without FCS), with zeros for its number and its time."""
    head = destination + source + struct.pack(">H4sI", ETHERTYPE, MARK, trial)
    return head.ljust(length, b"\0")


def packet_filter(trial: int) -> bytes:
    """Return the instructions of a filter that keeps the first KEPT bytes of the trial's frames, and no others."""
    mark = int.from_bytes(MARK, "big")
    program = (
        (_LOAD_HALF, 0, 0, HEADER - 2),
        (_JUMP_IF_EQUAL, 0, 5, ETHERTYPE),
        (_LOAD_WORD, 0, 0, HEADER),
        (_JUMP_IF_EQUAL, 0, 3, mark),
        (_LOAD_WORD, 0, 0, HEADER + 4),
        (_JUMP_IF_EQUAL, 0, 1, trial),
        (_RETURN, 0, 0, KEPT),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*each) for each in program)
