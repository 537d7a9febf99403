"""How many queues an interface works with, over the ethtool ioctl."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_GET_CHANNELS, _SET_CHANNELS = 0x3C, 0x3D  # linux/ethtool.h


@dataclass(frozen=True)
class Queues:
    """The channels of an interface: how many there are, and the most that there can be."""

    count: int
    maximum: int


def queues(name: str) -> Queues | None:
    """The queues of an interface in this thread's namespace; None where its driver tells none, or it is gone."""
    try:
        found = _channels(name, array.array("I", [_GET_CHANNELS, *[0] * 8]))
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            return None
        raise
    _, rx_maximum, tx_maximum, _, maximum, rx, tx, _, combined = found
    return Queues(combined, maximum) if maximum else Queues(min(rx, tx), min(rx_maximum, tx_maximum))


def set_queues(name: str, count: int) -> None:
    """Set how many queues an interface in this thread's namespace works with. Raises OSError."""
    asked = _channels(name, array.array("I", [_GET_CHANNELS, *[0] * 8]))
    asked[0] = _SET_CHANNELS
    if asked[4]:  # it has combined ones: each receives and sends
        asked[8] = count
    else:
        asked[5] = asked[6] = count
    _channels(name, asked)


def _channels(name: str, channels: array.array[int]) -> array.array[int]:
    """Pass a struct ethtool_channels to the kernel; it as the kernel leaves it."""
    address, _ = channels.buffer_info()
    request = struct.pack("16sP16x", name.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        fcntl.ioctl(one, _SIOCETHTOOL, request)
    return channels
