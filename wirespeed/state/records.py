"""Records of each container's networks on disk: after a reboot, a DEL uses them to release e.g. addresses.

After a reboot, the journal and the interfaces are gone, but leases of addresses are not: host-local and other IPAM
plugins keep them on disk. So the rows of each container are also in a file of its own, named by the container's
id. Each change appends a line; nothing is read or rewritten for that. A damaged file affects only one container.

No call waits for the disk. A power failure may lose the last changes of a record, of up to 30 s, for which the
kernel may delay writes. What it leaves then is an empty file: of the record, and of each of host-local's leases of
that time. The agent removes both. An orderly reboot loses nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.request import check_container_id
from wirespeed.errors import Error, as_error, os_errors
from wirespeed.state.journal import Attachment, AttachmentStep, Journal
from wirespeed.system.files import open_in_folder, temporary_name

log = logging.getLogger(__name__)

# Bytes of a record. A larger one is rewritten without obsolete lines when an interface is detached.
_MAX_SIZE = 1 << 16


@structs.prepared
class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One change of one interface: it was planned (`record`), attached (`result`) or detached (`gone`)."""

    ifname: str
    position: int = 0
    netns: str = ""
    record: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    gone: bool = False


class Records:
    """The records in `folder`, which is created when first needed (mode 0700): a file for each container's id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def containers(self) -> list[str]:
        """Return the ids of the containers that have a record."""
        try:
            return [name for name in sorted(os.listdir(self.folder)) if _is_container_id(name)]
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("records %s: %s", self.folder, error.strerror)
        return []

    def has(self, container: str) -> bool:
        return self._path(container).exists()

    def read(self, container: str) -> list[Attachment]:
        """Return the rows of a container in the order of its ADD; empty without a record.

        Rows with a result have the step "added", rows without one "adding", because their ADD may have begun.
        Unreadable lines are logged and skipped.
        """
        path = self._path(container)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("record %s: %s", path, error.strerror)
            return []
        rows: dict[str, Attachment] = {}
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip(b"\0"):  # a power failure leaves NULs in place of data that was not written yet
                _apply(rows, line, f"record {path}, line {number}", container)
        return sorted(rows.values(), key=lambda row: row.position)

    def add(self, rows: Sequence[Attachment]) -> None:
        """Record rows of one container. Raises Error(IO), after removing a record that was new."""
        path = self._path(rows[0].container)
        new = not path.exists()
        try:
            self._append(path, _lines(rows))
        except OSError as error:
            if new:
                with suppress(OSError):
                    path.unlink()
            raise as_error(error, f"record {path}") from error

    def note_result(self, container: str, ifname: str, result: dict[str, Any]) -> None:
        """Record the result of an ADD. A failure is only logged, because DEL works without the result."""
        with _logged(self._path(container)) as path:
            self._append(path, [_Line(ifname=ifname, result=result)])

    def drop(self, container: str, ifname: str) -> None:
        """Record that an interface is detached. A failure is only logged, because a second DEL does no harm."""
        with _logged(self._path(container)) as path:
            if not path.exists():
                return
            self._append(path, [_Line(ifname=ifname, gone=True)])
            if path.stat().st_size > _MAX_SIZE:
                self._compact(container, path)

    def remove(self, container: str) -> None:
        """Remove a container's record, if there is one."""
        with _logged(self._path(container)) as path:
            path.unlink(missing_ok=True)

    def check_usable(self) -> None:
        """Raise Error(IO) if records cannot be written."""
        path = self.folder / ".check"
        with os_errors(f"records {self.folder}"):
            self._append(path, [_Line(ifname="")])
            path.unlink()

    def _path(self, container: str) -> Path:
        return self.folder / container

    def _append(self, path: Path, lines: Sequence[_Line]) -> None:
        # Begin with a newline: if the last line in the file is incomplete, this one must not be joined to it.
        data = b"\n" + b"\n".join(map(msgspec.json.encode, lines)) + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(open_in_folder(path, flags, 0o600, folder_mode=0o700), "wb", buffering=0) as record:
            left = memoryview(data)
            while left:  # on a full disk, a write may be partial before the next one fails
                left = left[record.write(left) :]

    def _compact(self, container: str, path: Path) -> None:
        """Rewrite the record without obsolete lines: a running pod's networks may be attached many times."""
        new = self.folder / temporary_name(container)
        new.unlink(missing_ok=True)  # left by a process that was killed
        self._append(new, _lines(self.read(container)))
        os.replace(new, path)


class RecordedJournal(Journal):
    """The node's journal at `path`, with records of its attachments in `folder`."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self.records = Records(folder)

    def plan(self, attachments: Sequence[Attachment]) -> None:
        """Like `Journal.plan`, and record the plan on disk before an address is leased; undo both if that fails."""
        super().plan(attachments)
        try:
            self.records.add(attachments)
        except Error:
            for each in attachments:
                super().forget(each.container, each.ifname)
            raise

    def mark(self, container: str, ifname: str, step: AttachmentStep, result: dict[str, Any] | None = None) -> None:
        super().mark(container, ifname, step, result)
        if result is not None:
            self.records.note_result(container, ifname, result)

    def forget(self, container: str, ifname: str) -> None:
        # First the record: if this process is killed in between, a DEL still finds the row in the journal.
        if self._has_other_attachments(container, ifname):
            self.records.drop(container, ifname)
        else:
            self.records.remove(container)
        super().forget(container, ifname)

    def check_usable(self) -> None:
        super().check_usable()
        self.records.check_usable()

    def rows_only_in_records(self, container: str | None = None) -> Iterator[Attachment]:
        """Yield the recorded rows of containers (of one, or of all) that the journal has no row of."""
        known = {row.container for row in self.attachments(container)}
        for each in self.records.containers() if container is None else [container]:
            if each not in known:
                yield from self.records.read(each)

    def has_only_damaged_record(self, container: str) -> bool:
        """Whether the container has a record of which no row could be restored."""
        return self.records.has(container) and not self.attachments(container)

    def damaged_records(self) -> set[str]:
        """Return the containers that have a record of which no row could be restored."""
        recorded = self.records.containers()  # read first: a row is written before its record
        return set(recorded) - {row.container for row in self.attachments()}

    def rows_without_record(self) -> Iterator[list[Attachment]]:
        """Yield the rows of each container without a record: attached by an agent without records, or by Multus."""
        there = set(self.records.containers())
        for container, rows in groupby(self.attachments(), key=lambda row: row.container):
            if container not in there:
                yield list(rows)


def _lines(rows: Sequence[Attachment]) -> list[_Line]:
    return [
        _Line(ifname=row.ifname, position=row.position, netns=row.netns, record=row.record, result=row.result)
        for row in rows
    ]


def _apply(rows: dict[str, Attachment], text: bytes, where: str, container: str) -> None:
    try:
        line = msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("%s: cannot be read, and is skipped: %s", where, error)
        return
    if line.gone:
        rows.pop(line.ifname, None)
    elif line.record is not None:
        rows[line.ifname] = Attachment(
            container=container,
            ifname=line.ifname,
            position=line.position,
            netns=line.netns,
            step=AttachmentStep.ADDED if line.result is not None else AttachmentStep.ADDING,
            record=line.record,
            result=line.result,
        )
    elif line.ifname in rows and line.result is not None:
        rows[line.ifname] = replace(rows[line.ifname], step=AttachmentStep.ADDED, result=line.result)


def _is_container_id(name: str) -> bool:
    try:
        return bool(check_container_id(name))
    except Error:
        return False


@contextmanager
def _logged(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        log.warning("record %s: %s", path, error.strerror)
