"""Speed, driver, queues, rings and flow control of an interface, and how it distributes received packets (RSS): the
ethtool ioctl.
"""

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
_GET_SETTINGS, _GET_DRIVER = 0x1, 0x3  # ETHTOOL_GSET, ETHTOOL_GDRVINFO
_GET_RINGS, _GET_PAUSE = 0x10, 0x12  # ETHTOOL_GRINGPARAM, ETHTOOL_GPAUSEPARAM
_GET_RECEIVE_QUEUES = 0x2D  # ETHTOOL_GRXRINGS
_GET_CHANNELS, _SET_CHANNELS = 0x3C, 0x3D
_GET_RXFH, _SET_RXFH = 0x46, 0x47  # ETHTOOL_GRSSH, ETHTOOL_SRSSH
_NO_CHANGE = 0xFFFFFFFF  # ETH_RXFH_INDIR_NO_CHANGE
HASHES = {"toeplitz": 1, "xor": 2, "crc32": 4}  # ETH_RSS_HASH_*_BIT

# struct ethtool_rxfh: command, context, size of the table, bytes of the key, hash, transformation
_RXFH = struct.Struct("IIIIBB2xI")
_UNKNOWN_SPEED = 0xFFFFFFFF  # SPEED_UNKNOWN
_CLASSIFIER = 192  # bytes of a struct ethtool_rxnfc
_SETTINGS = struct.Struct("12xH14xH14x")  # struct ethtool_cmd: the lower and the upper half of the speed
_DRIVER = struct.Struct("4x32s160x")  # struct ethtool_drvinfo


@dataclass(frozen=True)
class Queues:
    """The channels of an interface: their number, and the maximum."""

    count: int
    maximum: int


@dataclass(frozen=True)
class Rings:
    """The rings of an interface, in packets: their sizes, and the largest that are possible."""

    rx: int
    tx: int
    rx_maximum: int
    tx_maximum: int


@dataclass(frozen=True)
class Pause:
    """Flow control of an interface (IEEE 802.3x): whether it obeys pause frames (rx), and sends them (tx)."""

    rx: bool
    tx: bool


@dataclass(frozen=True, kw_only=True)
class RssConfig:
    """RSS of an interface: a hash over each received packet selects an entry of `table`, which is a queue.

    `hash` is one of HASHES, `key` is the key of the hash as hex bytes with colons. Each is "" if the driver does
    not report it.
    """

    table: tuple[int, ...]
    hash: str
    key: str


def speed(name: str) -> int | None:
    """Return the speed in Mbit/s of an interface in this thread's namespace; None as in `queues`."""
    argument = array.array("B", struct.pack("I", _GET_SETTINGS).ljust(_SETTINGS.size, b"\0"))
    found = _none_if_unsupported(lambda: _ioctl(name, argument))
    if found is None:
        return None
    lower, upper = _SETTINGS.unpack(found)
    mbits = upper << 16 | lower
    return mbits if 0 < mbits < _UNKNOWN_SPEED else None


def driver(name: str) -> str:
    """Return the name of an interface's driver in this thread's namespace; "" if not reported, or it is gone."""
    argument = array.array("B", struct.pack("I", _GET_DRIVER).ljust(_DRIVER.size, b"\0"))
    found = _none_if_unsupported(lambda: _ioctl(name, argument))
    return "" if found is None else str(_DRIVER.unpack(found)[0].rstrip(b"\0").decode())


def queues(name: str) -> Queues | None:
    """Return the queues of an interface in this thread's namespace; None if not reported, or it is gone."""
    found = _none_if_unsupported(lambda: _ioctl(name, array.array("I", [_GET_CHANNELS, *[0] * 8])))
    if found is None:
        return None
    _, rx_maximum, tx_maximum, _, maximum, rx, tx, _, combined = found
    return Queues(combined, maximum) if maximum else Queues(min(rx, tx), min(rx_maximum, tx_maximum))


def rings(name: str) -> Rings | None:
    """Return the rings of an interface in this thread's namespace; None as in `queues`. Raises OSError."""
    found = _none_if_unsupported(lambda: _ioctl(name, array.array("I", [_GET_RINGS, *[0] * 8])))
    if found is None:
        return None
    _, rx_maximum, _, _, tx_maximum, rx, _, _, tx = found
    return Rings(rx, tx, rx_maximum, tx_maximum)


def pause(name: str) -> Pause | None:
    """Return the flow control of an interface in this thread's namespace; None as in `queues`. Raises OSError."""
    found = _none_if_unsupported(lambda: _ioctl(name, array.array("I", [_GET_PAUSE, *[0] * 3])))
    return None if found is None else Pause(bool(found[2]), bool(found[3]))


def set_queues(name: str, count: int) -> None:
    """Set how many queues an interface in this thread's namespace uses. Raises OSError."""
    argument = _ioctl(name, array.array("I", [_GET_CHANNELS, *[0] * 8]))
    argument[0] = _SET_CHANNELS
    if argument[4]:  # combined channels: each receives and sends
        argument[8] = count
    else:
        argument[5] = argument[6] = count
    _ioctl(name, argument)


def rx_queue_count(name: str) -> int:
    """Return the receive queues of an interface in this thread's namespace; 0 if not reported, or it is gone."""
    argument = array.array("B", struct.pack("I", _GET_RECEIVE_QUEUES).ljust(_CLASSIFIER, b"\0"))
    found = _none_if_unsupported(lambda: _ioctl(name, argument))
    return 0 if found is None else int(struct.unpack_from("Q", found, 8)[0])


def read_rss(name: str) -> RssConfig | None:
    """Return the RSS configuration of an interface in this thread's namespace; None as in `queues`."""
    sizes = _none_if_unsupported(lambda: _get_rxfh(name, places=0, length=0))
    if sizes is None:
        return None
    _, _, places, length, *_ = _RXFH.unpack_from(sizes)
    found = _get_rxfh(name, places=places, length=length)
    start = _RXFH.size + 4 * places
    number = _RXFH.unpack_from(found)[4]
    return RssConfig(
        table=struct.unpack_from(f"{places}I", found, _RXFH.size),
        hash=next((name for name, bit in HASHES.items() if bit == number), ""),
        key=bytes(found[start : start + length]).hex(":"),
    )


def set_rss(name: str, *, table: Sequence[int] | None = None, hash: str = "", key: str = "") -> None:  # noqa: A002 — as in RssConfig
    """Change the RSS configuration of an interface in this thread's namespace; only the given parts change.

    An empty table restores the driver's default. Raises OSError.
    """
    transformation = _RXFH.unpack_from(_get_rxfh(name, places=0, length=0))[5]
    places, tail = (_NO_CHANGE, b"") if table is None else (len(table), struct.pack(f"{len(table)}I", *table))
    packed = bytes.fromhex(key.replace(":", ""))
    head = _RXFH.pack(_SET_RXFH, 0, places, len(packed), HASHES.get(hash, 0), transformation, 0)
    _ioctl(name, array.array("B", head + tail + packed))


def _get_rxfh(name: str, *, places: int, length: int) -> array.array[int]:
    """Return the answer to ETHTOOL_GRSSH: the sizes, and table and key if `places` and `length` suffice."""
    head = _RXFH.pack(_GET_RXFH, 0, places, length, 0, 0, 0)
    return _ioctl(name, array.array("B", head.ljust(_RXFH.size + 4 * places + length, b"\0")))


def _none_if_unsupported(ask: Callable[[], array.array[int]]) -> array.array[int] | None:
    """Return the answer; None if the driver does not support the command, or the interface is gone."""
    try:
        return ask()
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            return None
        raise


def _ioctl(name: str, argument: array.array[int]) -> array.array[int]:
    """Pass a structure to the kernel, which fills it in; return it."""
    address, _ = argument.buffer_info()
    request = struct.pack("16sP16x", name.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        fcntl.ioctl(one, _SIOCETHTOOL, request)
    return argument
