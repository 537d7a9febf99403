"""The key "rss": checks it, configures RSS of a pod's interface, and compares it for CHECK."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wirespeed.devices.queues import rss_changes
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind, about_keys
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import Link
from wirespeed.structs import Words, whole

_Weight = Annotated[int, Meta(ge=0, le=1 << 16)]
_HashKey = Annotated[
    str,
    Meta(pattern=whole("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})*")),
    # Secret: an attacker who knows the key can direct all packets to one queue.
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
    """Check the combination of keys. Raises Error(INVALID_CONFIG) that names the nested key."""
    if found is None:
        return None
    if found == Rss():
        raise Error(Kind.INVALID_CONFIG, key="rss", expected='"queues", "weights", "hash" or "key" in it')
    if found.weights is not None and found.queues is not None:
        what = 'it cannot be combined with "queues"'
        raise Error(Kind.INVALID_CONFIG, what, key="rss.weights", about=about_keys("queues"))
    if found.weights is not None and not any(found.weights):
        raise Error(Kind.INVALID_CONFIG, key="rss.weights", expected="at least one that is not 0")
    return found


def apply(vf: Vf, link: Link, asked: Rss) -> None:
    """Set RSS of the VF's netdev, which is still on the host. Raises Error(DEVICE) that names the key."""
    now, there = ethtool.read_rss(link.name), ethtool.rx_queue_count(link.name)
    if now is None or not there:
        what = "its driver cannot change how received packets are distributed"
        raise Error(Kind.DEVICE, what, where=vf.where, key="rss")
    _check(vf, asked, now, there)
    for part, value in rss_changes(now, _wanted(asked, now)).items():
        try:
            ethtool.set_rss(link.name, **{part: value})
        except OSError as error:
            key = f"rss.{_key_of(asked, part)}"
            raise Error(Kind.DEVICE, str(error.strerror), where=vf.where, key=key) from error


def _check(vf: Vf, asked: Rss, now: RssConfig, there: int) -> None:
    """Refuse what exceeds the driver's limits (the kernel only returns EINVAL); `there` is its number of queues."""
    weights = asked.weights or ()
    expected = ""
    if key := _key_of(asked, "table"):
        if not now.table:
            expected = "none, because its driver has no indirection table"
        elif (asked.queues or len(weights)) > there:
            expected = f"at most {there} queues, as many as it has"
        elif sum(weights) > len(now.table):
            expected = f"a sum of at most {len(now.table)}, the size of its indirection table"
    if asked.key is not None and len(asked.key) != len(now.key):
        key, expected = "key", f"{(len(now.key) + 1) // 3} bytes, the length of its driver's key"
    if expected:
        raise Error(Kind.DEVICE, where=vf.where, key=f"rss.{key}", expected=expected)


def _key_of(asked: Rss, part: str) -> str:
    """Return the configuration's key of a part ("table", "hash", "key"); "" for a table that is not requested."""
    if part != "table":
        return part
    return "queues" if asked.queues is not None else "weights" if asked.weights is not None else ""


def _wanted(asked: Rss, now: RssConfig) -> RssConfig:
    """Return the requested RSS configuration; parts that are not requested are taken from `now`."""
    return RssConfig(
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


def drift(name: str, asked: Rss, now: RssConfig | None) -> list[str]:
    """Return how the interface's RSS configuration differs from the requested one, as messages."""
    if now is None:
        return [f"rss of {name}: its driver does not report it"]
    expected = _wanted(asked, now)
    wrong = [f"rss.hash of {name} is {now.hash}, expected {expected.hash}"] if now.hash != expected.hash else []
    if now.key != expected.key:  # keys are secret
        wrong.append(f"rss.key of {name} is another one")
    otherwise = sum(there != should for there, should in zip(now.table, expected.table, strict=True))
    if otherwise:
        key = f"rss.{_key_of(asked, 'table')}"
        wrong.append(f"{key} of {name}: {otherwise} of {len(now.table)} places of the table differ")
    return wrong
