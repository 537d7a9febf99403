"""Records of attachments on disk: reading them after a reboot, and after failures."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.errors import Error, Kind
from wirespeed.kernel.boot import boot_id
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.meta import restore
from wirespeed.plugins.meta.delegate import (
    NO_NETNS,
    Delegate,
    netns_gone,
    of_earlier_boot,
    planned_rows,
    recorded_identity,
)
from wirespeed.state import records
from wirespeed.state.journal import Attachment, AttachmentStep, Journal
from wirespeed.state.records import RecordedJournal, Records

RESULT = {"ips": [{"address": "10.1.0.2/24"}]}
LAST = Identity(4, 4026532000, 77)


def rows(container: str = "c", *ifnames: str) -> list[Attachment]:
    """The planned attachments of a container."""
    delegates = [
        Delegate(
            configuration="cluster",
            request_ifname="eth0",
            label=f"default/{name}",
            raw={"type": "bridge", "ipam": {"type": "host-local"}},
            version="1.0.0",
            ifname=name,
            args={"K8S_POD_NAME": "p"},
        )
        for name in ifnames or ("eth0", "net1")
    ]
    plan = planned_rows(delegates, container=container, netns="/run/netns/none", identity=LAST)
    return [replace(row, record=json.loads(json.dumps(row.record))) for row in plan]  # as after writing and reading


def made(row: Attachment) -> Attachment:
    return replace(row, step=AttachmentStep.ADDED, result=RESULT)


def begun(plan: Sequence[Attachment]) -> list[Attachment]:
    """Rows as they are restored if their ADD may not have finished."""
    return [replace(row, step=AttachmentStep.ADDING) for row in plan]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var/attachments"


@pytest.fixture
def journal(tmp_path: Path, folder: Path) -> RecordedJournal:
    return RecordedJournal(tmp_path / "run/state.db", folder)


def afresh(tmp_path: Path, folder: Path) -> RecordedJournal:
    """The journal after a reboot, restored from the earlier records."""
    journal = RecordedJournal(tmp_path / "run2/state.db", folder)
    restore.restore(journal)
    return journal


def of_another_boot(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(path.read_text().replace(boot_id(), "another"))


# Written records


def test_what_is_planned_and_made_is_there_in_another_journal(
    tmp_path: Path, journal: RecordedJournal, folder: Path
) -> None:
    plan = rows()
    journal.plan(plan)
    journal.mark("c", "eth0", AttachmentStep.ADDING)
    journal.mark("c", "eth0", AttachmentStep.ADDED, RESULT)
    assert afresh(tmp_path, folder).attachments() == [made(plan[0]), replace(plan[1], step=AttachmentStep.ADDING)]


def test_nothing_is_kept_of_what_is_undone(tmp_path: Path, journal: RecordedJournal, folder: Path) -> None:
    plan = rows()
    journal.plan(plan)
    journal.forget("c", "net1")
    assert afresh(tmp_path, folder).attachments() == begun(plan[:1])
    journal.forget("c", "eth0")
    assert list(folder.iterdir()) == []


def test_records_are_for_root_alone(journal: RecordedJournal, folder: Path) -> None:
    journal.plan(rows())
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "c")]
    assert modes == [0o700, 0o600]


def test_network_that_comes_and_goes_keeps_the_record_short(
    tmp_path: Path, journal: RecordedJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_MAX_SIZE", 4096)
    first, later = rows()
    journal.plan([first])
    journal.mark("c", "eth0", AttachmentStep.ADDED, RESULT)
    for _ in range(100):
        journal.plan([later])
        journal.mark("c", "net1", AttachmentStep.ADDED, RESULT)
        journal.forget("c", "net1")
        assert (folder / "c").stat().st_size < 8192
    assert afresh(tmp_path, folder).attachments() == [made(first)]
    assert [path.name for path in folder.iterdir()] == ["c"]


@given(st.lists(st.tuples(st.sampled_from(["plan", "made", "gone"]), st.sampled_from(["eth0", "net1", "net2"]))))
def test_records_say_what_the_journal_says(changes: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as made_folder:
        journal = RecordedJournal(Path(made_folder, "state.db"), Path(made_folder, "records"))
        plan = {row.ifname: row for row in rows("c", "eth0", "net1", "net2")}
        there: set[str] = set()
        for change, ifname in changes:
            if change == "plan" and ifname not in there:
                journal.plan([plan[ifname]])
                there.add(ifname)
            elif change == "made":
                journal.mark("c", ifname, AttachmentStep.ADDED, RESULT)
            elif change == "gone":
                journal.forget("c", ifname)
                there.discard(ifname)
        known = journal.attachments("c")
        kept = journal.records.read("c")
        assert [replace(row, step=AttachmentStep.PLANNED) for row in kept] == [
            replace(row, step=AttachmentStep.PLANNED) for row in known
        ]
        journal.close()


# After a reboot


def test_row_of_this_boot_comes_back_with_its_namespace(
    tmp_path: Path, journal: RecordedJournal, folder: Path
) -> None:
    journal.plan(rows())
    (row, _) = afresh(tmp_path, folder).attachments()
    assert not of_earlier_boot(row)
    assert recorded_identity(row) == LAST
    assert netns_gone(row)  # the namespace does not exist


def test_row_of_an_earlier_boot_comes_back_without_one(
    tmp_path: Path, journal: RecordedJournal, folder: Path
) -> None:
    """The device and inode number of its namespace may belong to another one now."""
    journal.plan(rows())
    of_another_boot(folder)
    (row, _) = afresh(tmp_path, folder).attachments()
    assert of_earlier_boot(row)
    assert recorded_identity(row) == NO_NETNS
    assert netns_gone(row)


def test_record_that_names_no_boot_is_of_an_earlier_one(tmp_path: Path, folder: Path) -> None:
    (row,) = rows("c", "eth0")
    del row.record["boot"]
    Records(folder).add([row])
    (found,) = afresh(tmp_path, folder).attachments()
    assert of_earlier_boot(found)


def test_what_the_journal_knows_better_stays(journal: RecordedJournal) -> None:
    plan = rows()
    journal.plan(plan)
    journal.mark("c", "eth0", AttachmentStep.DELETING)
    journal.records.remove("c")
    journal.records.add([made(row) for row in plan])
    restore.restore(journal)
    assert [row.step for row in journal.attachments()] == ["deleting", "planned"]


def test_one_container_can_come_back_alone(tmp_path: Path, journal: RecordedJournal, folder: Path) -> None:
    for container in ("a", "b"):
        journal.plan(rows(container))
    other = RecordedJournal(tmp_path / "run2/state.db", folder)
    restore.restore(other, "b")
    assert {row.container for row in other.attachments()} == {"b"}
    restore.restore(other, "absent")


def test_rows_of_before_there_were_records_are_recorded_as_of_this_boot(tmp_path: Path, folder: Path) -> None:
    old = Journal(tmp_path / "state.db")
    plan = [replace(row, record={k: v for k, v in row.record.items() if k != "boot"}) for row in rows()]
    old.plan(plan)
    old.mark("c", "eth0", AttachmentStep.ADDED, RESULT)
    old.close()
    journal = RecordedJournal(tmp_path / "state.db", folder)
    restore.record_all(journal)
    kept = journal.records.read("c")
    assert [(row.step, row.record["boot"]) for row in kept] == [("added", boot_id()), ("adding", boot_id())]


# Two processes with one journal


def test_row_whose_record_another_process_removes_meanwhile_does_not_come_back(
    tmp_path: Path, journal: RecordedJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.plan(rows())
    other = RecordedJournal(tmp_path / "run2/state.db", folder)
    put_back = other.restore

    def late(found: Sequence[Attachment]) -> None:
        journal.records.remove("c")
        put_back(found)

    monkeypatch.setattr(other, "restore", late)
    restore.restore(other)
    assert other.attachments() == []


def test_row_that_another_process_undoes_meanwhile_gets_no_record(
    tmp_path: Path, journal: RecordedJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.plan(rows())
    journal.records.remove("c")
    other = RecordedJournal(journal.path, folder)
    add = journal.records.add

    def late(found: Sequence[Attachment]) -> None:
        for row in found:
            other.forget(row.container, row.ifname)
        add(found)

    monkeypatch.setattr(journal.records, "add", late)
    restore.record_all(journal)
    assert list(folder.iterdir()) == []


# Failures


@pytest.fixture
def nowhere(tmp_path: Path) -> RecordedJournal:
    """A journal whose records cannot be written, because the parent of their directory is a file."""
    (tmp_path / "file").write_bytes(b"")
    return RecordedJournal(tmp_path / "run/state.db", tmp_path / "file/records")


def test_plan_that_cannot_be_recorded_is_refused_and_is_in_no_journal(nowhere: RecordedJournal) -> None:
    with pytest.raises(Error, match=r"record .*/file/records/c: Not a directory") as refused:
        nowhere.plan(rows())
    assert refused.value.kind == Kind.IO
    assert nowhere.attachments() == []
    with pytest.raises(Error, match="Not a directory"):
        nowhere.check_usable()


def test_plan_that_the_journal_refuses_leaves_the_record_as_it_was(journal: RecordedJournal) -> None:
    plan = rows()
    journal.plan(plan[:1])
    with pytest.raises(Error, match="is already attached"):
        journal.plan(plan)
    assert journal.records.read("c") == begun(plan[:1])


@pytest.mark.parametrize(
    "change",
    [
        lambda journal: journal.mark("c", "eth0", AttachmentStep.ADDED, RESULT),
        lambda journal: journal.forget("c", "net1"),
        lambda journal: [journal.forget("c", name) for name in ("net1", "eth0")],
    ],
)
def test_change_that_cannot_be_recorded_is_in_the_journal_all_the_same(
    nowhere: RecordedJournal, change: Callable[[RecordedJournal], Any]
) -> None:
    twin = Journal(nowhere.path.with_name("twin.db"))
    for each in (nowhere, twin):
        Journal.plan(each, rows())
    change(nowhere)
    change(twin)  # type: ignore[arg-type]
    assert nowhere.attachments() == twin.attachments()


def test_line_that_is_cut_off_takes_no_other_with_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, (first, later) = Records(folder), rows()
    kept.add([first])
    path = folder / "c"
    path.write_bytes(path.read_bytes()[:-20])
    kept.add([later])
    kept.note_result("c", "net1", RESULT)
    with caplog.at_level(logging.WARNING):
        assert kept.read("c") == [made(later)]
    assert f"record {path}, line 2: cannot be read, and is skipped" in caplog.text


@given(st.binary(max_size=200), st.booleans())
def test_whatever_is_in_a_record_is_rows_or_nothing(content: bytes, after: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as made_folder:
        kept, plan = Records(Path(made_folder)), rows()
        kept.add(plan)
        path = kept.folder / "c"
        path.write_bytes(path.read_bytes() + content if after else content + path.read_bytes())
        assert {row.ifname for row in kept.read("c")} >= {"eth0", "net1"}


def test_row_that_says_nothing_of_use_is_passed_over(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = rows()
    Records(folder).add([good, replace(other, record={"delegate": {"raw": 5}, "netns": {}})])
    (folder / "notes of somebody").write_text("hello")
    (folder / "sub").mkdir()
    journal = afresh(tmp_path, folder)
    assert [row.ifname for row in journal.attachments()] == ["eth0"]
    assert "record of container c: net1 cannot be used" in caplog.text
