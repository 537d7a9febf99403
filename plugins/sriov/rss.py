"""RSS of a pod's interface (the key "rss"): parses it, sets it and compares it for CHECK."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices.queues import spread_changes
from wirespeed.devices.vf import Vf
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import Spread
from wirespeed.kernel.netlink.link import Link
from wirespeed.structs import Words, whole

_Weight = Annotated[int, Meta(ge=0, le=1 << 16)]
_HashKey = Annotated[
    str,
    Meta(pattern=whole("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})*")),
    # Who knows the key can send all packets to one queue.
    Words("bytes in hex, with colons between them", "bytes in hex, with colons", secret=True),
]


class Rss(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The key "rss", with the values of `ethtool -X`; None leaves a part unchanged."""

    queues: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """distribute equally over this many queues, starting with the first (`equal`)"""
    weights: Annotated[list[_Weight], Meta(min_length=1, max_length=1024)] | None = None
    """the share of the indirection table for each queue (`weight`): `[6, 1]`"""
    hash: Literal["toeplitz", "xor", "crc32"] | None = None
    """the hash function over a packet's headers (`hfunc`)"""
    key: _HashKey | None = None
    """the key of the hash (`hkey`), of the same length as the driver's"""


def check(found: Rss | None) -> Rss | None:
    """Check what relates several keys. Raises CniError(INVALID_CONFIG) that names the nested key."""
    if found is None:
        return None
    if found == Rss():
        raise CniError(Code.INVALID_CONFIG, 'key "rss": expected "queues", "weights", "hash" or "key" in it')
    if found.weights is not None and found.queues is not None:
        raise CniError(Code.INVALID_CONFIG, 'key "rss.weights": expected no "queues" beside it')
    if found.weights is not None and not any(found.weights):
        raise CniError(Code.INVALID_CONFIG, 'key "rss.weights": expected one that is not 0')
    return found


def apply(vf: Vf, link: Link, asked: Rss) -> None:
    """Set RSS of the VF's netdev, which is still on the host. Raises CniError(DEVICE) that names the key."""
    now, there = ethtool.spread(link.name), ethtool.receive_queues(link.name)
    if now is None or not there:
        raise CniError(
            Code.DEVICE, f'{vf.where}: key "rss": its driver lets nobody set how it spreads what it receives'
        )
    _check(vf, asked, now, there)
    for key, change in spread_changes(now, _wanted(asked, now)):
        try:
            ethtool.set_spread(link.name, **change)
        except OSError as error:
            raise CniError(Code.DEVICE, f'{vf.where}: key "rss.{_key_of(asked, key)}": {error.strerror}') from error


def _check(vf: Vf, asked: Rss, now: Spread, there: int) -> None:
    """Refuse what exceeds the driver's limits (the kernel only returns EINVAL); `there` is its number of queues."""
    weights = asked.weights or ()
    expected = ""
    if table := _key_of(asked, "table"):
        if not now.table:
            expected = "none, for its driver has no table of queues"
        elif (asked.queues or len(weights)) > there:
            expected = f"at most {there} queues, which it has"
        elif sum(weights) > len(now.table):
            expected = f"a sum of at most {len(now.table)}, the size of its table"
    if asked.key is not None and len(asked.key) != len(now.key):
        table, expected = "key", f"{(len(now.key) + 1) // 3} bytes, as long as its key is"
    if expected:
        raise CniError(Code.DEVICE, f'{vf.where}: key "rss.{table}": expected {expected}')


def _key_of(asked: Rss, part: str) -> str:
    """Return the configuration's key of a part ("table", "hash", "key"); "" for a table that is not requested."""
    if part != "table":
        return part
    return "queues" if asked.queues is not None else "weights" if asked.weights is not None else ""


def _wanted(asked: Rss, now: Spread) -> Spread:
    """Return the requested RSS configuration; parts that are not requested are taken from `now`."""
    return Spread(
        table=_table(asked, len(now.table)) or now.table,
        hash=asked.hash or now.hash,
        key=(asked.key or now.key).lower(),
    )


def _table(asked: Rss, size: int) -> tuple[int, ...]:
    """Return the indirection table that ethtool would compute; () if none is requested."""
    if asked.queues is not None:
        return tuple(place % asked.queues for place in range(size))
    found: list[int] = []
    passed, whole = 0, sum(asked.weights or ())
    for queue, weight in enumerate(asked.weights or ()):
        passed += weight
        found += [queue] * (size * passed // whole - len(found))
    return tuple(found)


def drift(name: str, asked: Rss, now: Spread | None) -> list[str]:
    """Return how the interface's RSS configuration differs from the requested one, as messages."""
    if now is None:
        return [f"rss of {name}: its driver tells nothing"]
    expected = _wanted(asked, now)
    wrong = [f"rss.hash of {name} is {now.hash}, expected {expected.hash}"] if now.hash != expected.hash else []
    if now.key != expected.key:  # keys are not printed: with the key, an attacker can aim at one queue
        wrong.append(f"rss.key of {name} is another one")
    otherwise = sum(there != should for there, should in zip(now.table, expected.table, strict=True))
    if otherwise:
        wrong.append(f"rss.{_key_of(asked, 'table')} of {name}: {otherwise} of {len(now.table)} places are not so")
    return wrong
