"""The journal: owners of devices, plans, and whether it is usable."""

from __future__ import annotations

import errno
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity
from wirespeed.state.journal import Attachment, ClaimStep, DeviceClaim, DeviceTakenError, Journal, read_attachments

CLAIM = DeviceClaim(
    device="0000:03:02.0",
    plugin="sriov",
    container="a",
    ifname="net1",
    netns="/run/netns/a",
    identity=Identity(4, 4026531840, 7),
    record={"before": {"vlan": 5}},
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state.db")


def test_a_claim_is_read_as_it_was_written_also_by_the_next_process(tmp_path: Path) -> None:
    first = Journal(tmp_path / "state.db")
    first.claim(CLAIM)
    first.advance(CLAIM, ClaimStep.ATTACHED)
    assert Journal(tmp_path / "state.db").owner(CLAIM.device) == replace(CLAIM, step=ClaimStep.ATTACHED)


def test_attachments_are_read_beside_an_agent_that_has_the_journal_open(journal: Journal) -> None:
    planned = Attachment(container="a", ifname="net1", position=0, netns="/run/netns/a", record={"x": 1})
    journal.plan([planned])
    assert read_attachments(journal.path) == [planned]
    journal.forget("a", "net1")
    assert read_attachments(journal.path) == []


def test_reading_attachments_where_there_is_no_journal_creates_none(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"^journal .*/state\.db: unable to open database file$") as refused:
        read_attachments(tmp_path / "state.db")
    assert refused.value.kind == Kind.IO
    assert list(tmp_path.iterdir()) == []


def test_a_device_belongs_to_one_attachment(journal: Journal) -> None:
    journal.claim(CLAIM)
    with pytest.raises(
        DeviceTakenError, match=r"0000:03:02.0 belongs to container a net1 in /run/netns/a"
    ) as taken:
        journal.claim(replace(CLAIM, container="b"))
    assert taken.value.kind == Kind.TRY_AGAIN
    assert taken.value.owner == CLAIM


def test_an_attachment_has_one_device(journal: Journal) -> None:
    journal.claim(CLAIM)
    with pytest.raises(DeviceTakenError, match=r"0000:03:02.0 belongs to container a net1"):
        journal.claim(replace(CLAIM, device="0000:03:02.1"))
    assert journal.claims() == [CLAIM]


def test_of_many_who_claim_a_device_at_once_one_gets_it(journal: Journal) -> None:
    def claim(container: str) -> bool:
        try:
            journal.claim(replace(CLAIM, container=container))
        except DeviceTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, "abcdefgh")) == 1


def test_a_release_by_a_former_owner_leaves_the_new_one(journal: Journal) -> None:
    journal.claim(CLAIM)
    journal.release(CLAIM)
    new = replace(CLAIM, container="b")
    journal.claim(new)
    journal.release(CLAIM)
    journal.advance(CLAIM, ClaimStep.ATTACHED)
    assert journal.owner(CLAIM.device) == new


def test_a_plan_is_written_whole_or_not_at_all(journal: Journal) -> None:
    plan = [
        Attachment(container="a", ifname=name, position=n, netns="/n") for n, name in enumerate(["eth0", "net1"])
    ]
    journal.plan(plan[1:])
    with pytest.raises(Error, match="container a is already attached") as refused:
        journal.plan(plan)
    assert refused.value.kind == Kind.INTERFACE
    assert journal.attachments("a") == plan[1:]


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Error, match="expected version 1, got 99") as refused:
        Journal(path)
    assert refused.value.kind == Kind.IO


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, however long it may be" * 100)
    with pytest.raises(Error, match=r"state.db") as refused:
        Journal(path)
    assert refused.value.kind == Kind.IO


def test_a_journal_that_works_is_usable(journal: Journal) -> None:
    journal.check_usable()


@pytest.mark.parametrize("put_another", [False, True])
def test_a_journal_whose_file_is_gone_is_not_usable(journal: Journal, put_another: bool) -> None:
    journal.path.rename(journal.path.with_suffix(".away"))
    if put_another:
        journal.path.touch()
    with pytest.raises(Error, match="another file has taken its place" if put_another else "No such file"):
        journal.check_usable()


def test_a_journal_that_another_writer_never_leaves_is_not_usable(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal._db.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(journal.path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Error, match="locked") as refused:
            journal.check_usable()
    assert refused.value.kind == Kind.IO


def test_keys_of_a_record_are_changed_and_taken_away(journal: Journal) -> None:
    rows = [Attachment(container=c, ifname="eth0", position=0, netns="/n", record={"a": {"b": 1}}) for c in "xy"]
    for row in rows:
        journal.plan([row])
    journal.amend("x", "eth0", {"owed": "uid"})
    assert journal.attachments("x") == [replace(rows[0], record={"a": {"b": 1}, "owed": "uid"})]
    journal.amend("x", "eth0", {"owed": None})
    assert journal.attachments() == rows


@pytest.mark.parametrize("removed", ["the file", "its log too", "the folder"])
def test_journal_whose_file_is_removed_is_written_anew(tmp_path: Path, removed: str) -> None:
    journal = Journal(tmp_path / "run/state.db")
    rows = [Attachment(container=c, ifname="eth0", position=0, netns="/n") for c in "xyz"]
    journal.claim(CLAIM)
    journal.plan(rows[:1])
    assert not journal.rewrite_if_removed()
    for file in (tmp_path / "run").iterdir():
        if removed != "the file" or file.name == "state.db":
            file.unlink()
    if removed == "the folder":
        (tmp_path / "run").rmdir()
    journal.plan(rows[1:2])  # before the loss is noticed
    assert journal.rewrite_if_removed()
    journal.plan(rows[2:])
    journal.check_usable()
    assert not journal.rewrite_if_removed()
    other = Journal(tmp_path / "run/state.db")
    assert other.attachments() == rows
    assert other.owner(CLAIM.device) == CLAIM
    journal.close()
    assert other.attachments() == rows


@pytest.mark.parametrize("call", ["rename", "chmod"])  # of the copy, and of the file that is opened
def test_journal_that_cannot_be_written_anew_at_once_is_so_later(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rows = [Attachment(container=c, ifname="eth0", position=0, netns="/n") for c in "xy"]
    journal.plan(rows[:1])
    for file in journal.path.parent.iterdir():
        file.unlink()
    with monkeypatch.context() as failing:
        failing.setattr(Path, call, Mock(side_effect=OSError(errno.EIO, "it fails")))
        for _ in range(2):
            with pytest.raises(Error, match="it fails"):
                journal.rewrite_if_removed()
    journal.plan(rows[1:])
    assert journal.rewrite_if_removed()
    journal.check_usable()
    assert Journal(journal.path).attachments() == rows


def test_journal_that_another_file_has_replaced_is_left_and_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    for file in tmp_path.iterdir():
        file.unlink()
    Journal(tmp_path / "state.db").claim(CLAIM)
    assert not journal.rewrite_if_removed()
    with pytest.raises(Error, match="another file has taken its place"):
        journal.check_usable()
