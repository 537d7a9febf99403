"""A packet socket with a ring that the kernel fills with received frames (TPACKET_V2, kernel: packet_mmap)."""

from __future__ import annotations

import array
import ctypes
import mmap
import socket
import struct
from typing import NamedTuple

from wirespeed.measure import frames

# linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 263, 5, 6, 10, 23
_TPACKET_V2, _ALL_PROTOCOLS = 1, 3
_SO_ATTACH_FILTER = 26

_SLOT = 256  # bytes
_SLOTS = 65536
_BLOCK = 1 << 20  # bytes
_CHUNK = 512  # slots that are read at once
# A slot is a struct tpacket2_hdr, a sockaddr_ll, and the frame, of which this is where the payload begins: the
# kernel aligns it to 16 bytes (tpacket_rcv).
_PAYLOAD = 80
_STATUS, _SECONDS, _NANOSECONDS = 0, 4, 5  # words of 4 bytes in a slot
_NUMBER = (_PAYLOAD + frames.NUMBER - frames.HEADER) // 8  # words of 8 bytes
_SENT = (_PAYLOAD + frames.SENT - frames.HEADER) // 8


class Received(NamedTuple):
    """Frames in the order of arrival: their numbers, and the times in ns at which each was sent and received.

    The times are left out unless they were asked for.
    """

    numbers: list[int]
    sent: list[int]
    arrived: list[int]


class Ring:
    """Receives the frames of one trial on an interface of the namespace in which it is created. Raises OSError.

    The kernel stamps a frame when the interface hands it over, however late this program reads it.
    """

    def __init__(self, interface: str, trial: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._set_up(interface, trial)
            self._map = mmap.mmap(self._socket.fileno(), _SLOT * _SLOTS)
        except BaseException:
            self._socket.close()
            raise
        self._view = memoryview(self._map)
        self._words, self._pairs = self._view.cast("I"), self._view.cast("Q")
        self._position = 0
        self._free = array.array("I", bytes(4 * _CHUNK))

    def _set_up(self, interface: str, trial: int) -> None:
        instructions = ctypes.create_string_buffer(frames.packet_filter(trial))
        program = struct.pack("HP", len(instructions.raw) // 8, ctypes.addressof(instructions))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        blocks = _SLOT * _SLOTS // _BLOCK
        self._socket.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("IIII", _BLOCK, blocks, _SLOT, _SLOTS))
        self._socket.bind((interface, _ALL_PROTOCOLS))  # only now it receives

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, *, times: bool) -> Received | None:
        """Return the next frames, at most _CHUNK; None if there are none."""
        at, count = self._position, min(_CHUNK, _SLOTS - self._position)
        slots = self._words[at * _SLOT // 4 : (at + count) * _SLOT // 4]
        states = slots[_STATUS :: _SLOT // 4].tolist()
        if 0 in states:  # TP_STATUS_KERNEL: the kernel has not filled it yet
            count = states.index(0)
        if not count:
            return None
        pairs = self._pairs[at * _SLOT // 8 : (at + count) * _SLOT // 8]
        numbers = pairs[_NUMBER :: _SLOT // 8].tolist()
        sent: list[int] = []
        arrived: list[int] = []
        if times:
            sent = pairs[_SENT :: _SLOT // 8].tolist()
            seconds = slots[_SECONDS :: _SLOT // 4].tolist()[:count]
            rest = slots[_NANOSECONDS :: _SLOT // 4].tolist()
            arrived = [each * 1_000_000_000 + ns for each, ns in zip(seconds, rest, strict=False)]
        slots[_STATUS : count * _SLOT // 4 : _SLOT // 4] = memoryview(self._free)[:count]
        self._position = (at + count) % _SLOTS
        return Received(numbers, sent, arrived)

    def overruns(self) -> int:
        """Return how many frames found the ring full since the last call."""
        answer = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        return int(struct.unpack("II", answer)[1])

    def close(self) -> None:
        for view in (self._words, self._pairs, self._view):
            view.release()
        self._map.close()
        self._socket.close()
