"""The key "rss": rejected values, the indirection table, and the settings passed to a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed import structs
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.queues import restore_rss
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import Link
from wirespeed.plugins.sriov import rss
from wirespeed.plugins.sriov.conf import Keys
from wirespeed.plugins.sriov.rss import Rss

LINK = Link(index=7, name="eth0", mac="02:00:00:00:00:01", mtu=1500, flags=0)
VF = Vf(device=PciDevice("0000:18:01.0"), pf=PciDevice("0000:18:00.0"), index=0, driver="iavf", link=LINK)
KEY = ":".join(f"{byte:02x}" for byte in range(40))


def read(value: object) -> Rss | None:
    return rss.check(structs.read({"rss": value}, Keys).rss)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (4, 'key "rss": expected an object, got 4'),
        ({}, 'key "rss": expected "queues", "weights", "hash" or "key" in it'),
        ({"queue": 4}, 'unknown key "rss.queue"; did you mean "queues"?'),
        ({"queues": 0}, 'key "rss.queues": expected an integer from 1 to 1024, got 0'),
        ({"queues": True}, 'key "rss.queues": expected an integer from 1 to 1024, got True'),
        (
            {"weights": []},
            'key "rss.weights": expected a list of 1 to 1024 elements, got []',
        ),
        ({"weights": [0, 0]}, 'key "rss.weights": expected at least one that is not 0'),
        ({"weights": [1, -1]}, 'key "rss.weights[1]": expected an integer from 0 to 65536, got -1'),
        ({"queues": 2, "weights": [1, 2]}, 'key "rss.weights": it cannot be combined with "queues"'),
        ({"hash": "md5"}, 'key "rss.hash": expected "toeplitz", "xor" or "crc32", got \'md5\''),
        (
            {"key": "0g"},
            'key "rss.key": expected bytes in hex, with colons between them; the value is not shown',
        ),
        ([{"key": "0a"}], 'key "rss": expected an object; the value is not shown'),
    ],
)
def test_refuses(value: object, told: str) -> None:
    with pytest.raises(Error) as refused:
        read(value)
    assert told in refused.value.msg
    assert refused.value.kind == Kind.INVALID_CONFIG


def test_nothing_asked_is_nothing() -> None:
    assert read(None) is None


def by_ethtool(weights: Sequence[int], size: int) -> tuple[int, ...]:
    """The table of `ethtool -X weight`, entry by entry: the next queue as soon as the shares so far are used up."""
    table, queue, shares = [], -1, 0
    for place in range(size):
        while place >= size * shares // sum(weights):
            queue += 1
            shares += weights[queue]
        table.append(queue)
    return tuple(table)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=16).filter(any), st.sampled_from([8, 64, 128, 512]))
def test_weights_make_the_table_that_ethtool_makes(weights: list[int], size: int) -> None:
    assert rss._table(Rss(weights=weights), size) == by_ethtool(weights, size)


@given(st.integers(1, 64), st.sampled_from([8, 64, 128, 512]))
def test_queues_share_the_table_equally(queues: int, size: int) -> None:
    table = rss._table(Rss(queues=queues), size)
    used = [table.count(queue) for queue in range(min(queues, size))]
    assert sum(used) == size
    assert max(used) - min(used) <= 1


class Driver:
    """A driver with an indirection table, a key and hash functions. An empty table restores the default."""

    def __init__(self, *, queues: int = 4, places: int = 16, refuses: str = "") -> None:
        self.queues, self.refuses = queues, refuses
        self.default = tuple(place % queues for place in range(places))
        self.now = RssConfig(table=self.default, hash="toeplitz", key=KEY)
        self.is_somebodys = False

    def set_rss(self, name: str, *, table: Sequence[int] | None = None, hash: str = "", key: str = "") -> None:  # noqa: A002 — as in RssConfig
        if (self.refuses == "hash" and hash) or (self.refuses == "table" and table is not None):
            raise OSError(95, "Operation not supported")
        if table is not None:
            self.is_somebodys = bool(table)
        self.now = RssConfig(
            table=self.now.table if table is None else tuple(table) or self.default,
            hash=hash or self.now.hash,
            key=key or self.now.key,
        )


def driver(monkeypatch: pytest.MonkeyPatch, **keys: Any) -> Driver:
    found = Driver(**keys)
    monkeypatch.setattr(ethtool, "read_rss", lambda name: found.now)
    monkeypatch.setattr(ethtool, "rx_queue_count", lambda name: found.queues)
    monkeypatch.setattr(ethtool, "set_rss", found.set_rss)
    return found


def test_all_of_it_is_set_found_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    there = driver(monkeypatch)
    before, asked = there.now, Rss(weights=[3, 1], hash="xor", key=KEY[::-1].upper())
    rss.apply(VF, LINK, asked)
    assert there.now == RssConfig(table=(0,) * 12 + (1,) * 4, hash="xor", key=KEY[::-1])
    wanted = Rss(weights=[3, 1], hash="xor", key=KEY[::-1].upper())
    assert rss.drift("net1", wanted, there.now) == []
    there.set_rss("net1", table=[0] * 16, hash="crc32", key=KEY)
    assert rss.drift("net1", wanted, there.now) == [
        "rss.hash of net1 is crc32, expected xor",
        "rss.key of net1 is another one",
        "rss.weights of net1: 4 of 16 places of the table differ",
    ]
    restore_rss(LINK, before)
    assert there.now == before
    assert not there.is_somebodys


def test_an_administrators_table_is_put_back_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    there = driver(monkeypatch)
    there.set_rss("eth0", table=[3] * 16)
    before = there.now
    rss.apply(VF, LINK, Rss(queues=2))
    restore_rss(LINK, before)
    assert (there.now, there.is_somebodys) == (before, True)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Rss(queues=5), 'key "rss.queues": expected at most 4 queues, as many as it has'),
        (Rss(weights=[9, 9]), 'key "rss.weights": expected a sum of at most 16, the size of its indirection table'),
        (Rss(key="00:11"), 'key "rss.key": expected 40 bytes, the length of its driver\'s key'),
        (Rss(hash="xor"), 'key "rss.hash": Operation not supported'),
    ],
)
def test_what_the_driver_does_not_do_is_named(monkeypatch: pytest.MonkeyPatch, asked: Rss, told: str) -> None:
    there = driver(monkeypatch, refuses="hash")
    before = there.now
    with pytest.raises(Error) as refused:
        rss.apply(VF, LINK, asked)
    assert refused.value.msg == f"{VF.where}: {told}"
    assert there.now == before


def test_a_driver_without_a_table_spreads_to_no_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, places=0)
    with pytest.raises(
        Error, match=r'key "rss.queues": expected none, because its driver has no indirection table'
    ):
        rss.apply(VF, LINK, Rss(queues=2))


def test_a_driver_that_no_longer_tells_its_queues_gets_its_table_back_as_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = driver(monkeypatch)
    before = there.now
    rss.apply(VF, LINK, Rss(queues=1))
    there.queues = 0
    restore_rss(LINK, before)
    assert (there.now, there.is_somebodys) == (before, True)


def test_what_cannot_be_put_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    there = driver(monkeypatch)
    before = there.now
    rss.apply(VF, LINK, Rss(queues=1))
    there.refuses = "table"
    with pytest.raises(Error, match=r"eth0: not restored: the table of rss \(Operation not supported\)"):
        restore_rss(LINK, before)
