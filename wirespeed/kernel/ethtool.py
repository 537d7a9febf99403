"""How many queues an interface uses, and how it spreads received packets over them (RSS): the ethtool ioctl."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946  # linux/sockios.h
# linux/ethtool.h
_GET_RECEIVE_QUEUES = 0x2D  # ETHTOOL_GRXRINGS
_GET_CHANNELS, _SET_CHANNELS = 0x3C, 0x3D
_GET_SPREAD, _SET_SPREAD = 0x46, 0x47  # ETHTOOL_GRSSH, ETHTOOL_SRSSH
_NO_CHANGE = 0xFFFFFFFF  # ETH_RXFH_INDIR_NO_CHANGE
HASHES = {"toeplitz": 1, "xor": 2, "crc32": 4}  # ETH_RSS_HASH_*_BIT

# struct ethtool_rxfh: command, context, size of the table, bytes of the key, hash, transformation
_SPREAD = struct.Struct("IIIIBB2xI")
_CLASSIFIER = 192  # bytes of a struct ethtool_rxnfc


@dataclass(frozen=True)
class Queues:
    """The channels of an interface: their number, and the maximum."""

    count: int
    maximum: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How an interface spreads received packets: a hash of each packet selects an entry of `table`, a queue.

    `hash` is one of HASHES, `key` is the key of the hash as hex bytes with colons. Each is "" if the driver does
    not report it.
    """

    table: tuple[int, ...]
    hash: str
    key: str


def queues(name: str) -> Queues | None:
    """Return the queues of an interface in this thread's namespace; None if not reported, or it is gone."""
    found = _answer_if_supported(lambda: _exchange(name, array.array("I", [_GET_CHANNELS, *[0] * 8])))
    if found is None:
        return None
    _, rx_maximum, tx_maximum, _, maximum, rx, tx, _, combined = found
    return Queues(combined, maximum) if maximum else Queues(min(rx, tx), min(rx_maximum, tx_maximum))


def set_queues(name: str, count: int) -> None:
    """Set how many queues an interface in this thread's namespace uses. Raises OSError."""
    argument = _exchange(name, array.array("I", [_GET_CHANNELS, *[0] * 8]))
    argument[0] = _SET_CHANNELS
    if argument[4]:  # combined channels: each receives and sends
        argument[8] = count
    else:
        argument[5] = argument[6] = count
    _exchange(name, argument)


def receive_queues(name: str) -> int:
    """Return over how many queues an interface in this thread's namespace can spread received packets.

    0 if the driver does not report it, or the interface is gone.
    """
    argument = array.array("B", struct.pack("I", _GET_RECEIVE_QUEUES).ljust(_CLASSIFIER, b"\0"))
    found = _answer_if_supported(lambda: _exchange(name, argument))
    return 0 if found is None else int(struct.unpack_from("Q", found, 8)[0])


def spread(name: str) -> Spread | None:
    """Return how an interface in this thread's namespace spreads received packets; None as `queues`."""
    sizes = _answer_if_supported(lambda: _spread(name, places=0, length=0))
    if sizes is None:
        return None
    _, _, places, length, *_ = _SPREAD.unpack_from(sizes)
    found = _spread(name, places=places, length=length)
    start = _SPREAD.size + 4 * places
    number = _SPREAD.unpack_from(found)[4]
    return Spread(
        table=struct.unpack_from(f"{places}I", found, _SPREAD.size),
        hash=next((name for name, bit in HASHES.items() if bit == number), ""),
        key=bytes(found[start : start + length]).hex(":"),
    )


def set_spread(name: str, *, table: Sequence[int] | None = None, hash_name: str = "", key: str = "") -> None:
    """Set how an interface in this thread's namespace spreads received packets; only what is given changes.

    An empty table restores the driver's default. Raises OSError.
    """
    transformation = _SPREAD.unpack_from(_spread(name, places=0, length=0))[5]
    places, tail = (_NO_CHANGE, b"") if table is None else (len(table), struct.pack(f"{len(table)}I", *table))
    packed = bytes.fromhex(key.replace(":", ""))
    head = _SPREAD.pack(_SET_SPREAD, 0, places, len(packed), HASHES.get(hash_name, 0), transformation, 0)
    _exchange(name, array.array("B", head + tail + packed))


def _spread(name: str, *, places: int, length: int) -> array.array[int]:
    """Return the answer to ETHTOOL_GRSSH: the sizes, and the table and key if room for both is given."""
    head = _SPREAD.pack(_GET_SPREAD, 0, places, length, 0, 0, 0)
    return _exchange(name, array.array("B", head.ljust(_SPREAD.size + 4 * places + length, b"\0")))


def _answer_if_supported(ask: Callable[[], array.array[int]]) -> array.array[int] | None:
    """Return the answer; None if the driver does not support the command, or the interface is gone."""
    try:
        return ask()
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            return None
        raise


def _exchange(name: str, argument: array.array[int]) -> array.array[int]:
    """Pass a structure to the kernel and return it as the kernel filled it in."""
    address, _ = argument.buffer_info()
    request = struct.pack("16sP16x", name.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        fcntl.ioctl(one, _SIOCETHTOOL, request)
    return argument
