"""Records on disk of what each container's networks are, by which a DEL after a reboot gives back what they hold.

The journal is gone after a reboot, as the interfaces are, but not all that an attachment holds is: addresses are
leased on disk, by host-local and by what other IPAM plugins keep. So the rows of each container are also a file of
its own, named by the container's id, to which each change adds a line: nothing is read or rewritten for that, and
a file that is damaged says nothing of other containers.

No call waits for the disk. What a power cut takes of a record (up to the half minute for which the kernel may keep
what was written) it takes of host-local's leases, too. An orderly reboot takes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import check_container_id
from wirespeed.host.files import unfinished
from wirespeed.state.journal import Attachment, Journal

log = logging.getLogger(__name__)

_LONG = 1 << 16  # bytes of a file from which it is written anew when a line is added that makes others moot


@structs.prepared
class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One change of one interface: it was planned (`record`), made (`result`), or is no more (`gone`)."""

    ifname: str
    position: int = 0
    netns: str = ""
    record: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    gone: bool = False


class Records:
    """The records in `folder`, which is made when it is first needed (mode 0700)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def containers(self) -> list[str]:
        """The containers that have a record."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("records %s: %s", self.folder, error.strerror)
            return []
        return [name for name in names if _is_container(name)]

    def has(self, container: str) -> bool:
        """Whether the container has a record."""
        return self._path(container).exists()

    def read(self, container: str) -> list[Attachment]:
        """The rows of a container in the order of its ADD, none where there is no record.

        A row with a result is "added"; one without may have been begun and is "adding". What cannot be read is
        logged and passed over.
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
            if line.strip(b"\0"):  # NULs are what a power cut leaves of data that was not written yet
                _apply(rows, line, f"record {path}, line {number}", container)
        return sorted(rows.values(), key=lambda row: row.position)

    def add(self, rows: Sequence[Attachment]) -> None:
        """Record rows of one container. Raises CniError(IO_FAILURE), and then a new record is not there."""
        path = self._path(rows[0].container)
        new = not path.exists()
        lines = [
            _Line(ifname=row.ifname, position=row.position, netns=row.netns, record=row.record, result=row.result)
            for row in rows
        ]
        try:
            self._append(path, lines)
        except OSError as error:
            if new:
                with suppress(OSError):
                    path.unlink()
            raise CniError(Code.IO_FAILURE, f"record {path}: {error.strerror}") from error

    def note_result(self, container: str, ifname: str, result: dict[str, Any]) -> None:
        """Record what an ADD made. Without it a DEL works, too, so that it cannot be written is only logged."""
        path = self._path(container)
        with _logged(path):
            self._append(path, [_Line(ifname=ifname, result=result)])

    def drop(self, container: str, ifname: str) -> None:
        """Record that an interface is no more. What would be undone once more does no harm: a failure is logged."""
        path = self._path(container)
        with _logged(path):
            if not path.exists():
                return
            self._append(path, [_Line(ifname=ifname, gone=True)])
            if path.stat().st_size > _LONG:
                self._shorten(container, path)

    def remove(self, container: str) -> None:
        """Remove a container's record, if there is one."""
        path = self._path(container)
        with _logged(path):
            path.unlink(missing_ok=True)

    def check_usable(self) -> None:
        """Raise CniError(IO_FAILURE) where a record could not be written."""
        path = self.folder / ".check"
        try:
            self._append(path, [_Line(ifname="")])
            path.unlink()
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"records {self.folder}: {error.strerror}") from error

    def _path(self, container: str) -> Path:
        return self.folder / container

    def _append(self, path: Path, lines: Sequence[_Line]) -> None:
        # A newline first as well: a line before it that was cut off must not take this one with it.
        data = b"\n" + b"\n".join(map(msgspec.json.encode, lines)) + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, flags, 0o600)
        with open(file, "wb", buffering=0) as record:
            left = memoryview(data)
            while left:  # a disk that gets full takes a part first, and then refuses the rest
                left = left[record.write(left) :]

    def _shorten(self, container: str, path: Path) -> None:
        """Write the record anew: networks of a pod that runs may come and go many times."""
        new = self.folder / unfinished(container)
        with suppress(FileNotFoundError):  # one that was killed has left it
            new.unlink()
        rows = self.read(container)
        lines = [
            _Line(ifname=r.ifname, position=r.position, netns=r.netns, record=r.record, result=r.result)
            for r in rows
        ]
        self._append(new, lines)
        os.replace(new, path)


class KeptJournal(Journal):
    """The node's journal at `path`, whose attachments are recorded in `folder` as well."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self.records = Records(folder)

    def plan(self, attachments: Sequence[Attachment]) -> None:
        """As `Journal.plan`, and record it: before the first address is leased, or nothing is to be made."""
        super().plan(attachments)
        try:
            self.records.add(attachments)
        except CniError:
            for each in attachments:
                super().forget(each.container, each.ifname)
            raise

    def mark(self, container: str, ifname: str, step: str, result: dict[str, Any] | None = None) -> None:
        super().mark(container, ifname, step, result)
        if result is not None:
            self.records.note_result(container, ifname, result)

    def forget(self, container: str, ifname: str) -> None:
        # The record first: who is killed in between has a row that a DEL undoes by what the journal knows.
        if self._has_others(container, ifname):
            self.records.drop(container, ifname)
        else:
            self.records.remove(container)
        super().forget(container, ifname)

    def check_usable(self) -> None:
        super().check_usable()
        self.records.check_usable()

    def lost(self, container: str | None = None) -> Iterator[Attachment]:
        """The recorded rows of one container, or of each, that the journal knows nothing of."""
        known = {row.container for row in self.attachments(container)}
        for each in self.records.containers() if container is None else [container]:
            if each not in known:
                yield from self.records.read(each)

    def unrecorded(self) -> Iterator[list[Attachment]]:
        """The rows of each container that has no record: an agent that kept none has attached it, or a peer."""
        there = set(self.records.containers())
        rows: dict[str, list[Attachment]] = {}
        for row in self.attachments():
            if row.container not in there:
                rows.setdefault(row.container, []).append(row)
        yield from rows.values()


def _apply(rows: dict[str, Attachment], text: bytes, where: str, container: str) -> None:
    try:
        line = msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("%s: cannot be read, and is passed over: %s", where, error)
        return
    if line.gone:
        rows.pop(line.ifname, None)
    elif line.record is not None:
        rows[line.ifname] = Attachment(
            container=container,
            ifname=line.ifname,
            position=line.position,
            netns=line.netns,
            step="added" if line.result is not None else "adding",
            record=line.record,
            result=line.result,
        )
    elif line.ifname in rows and line.result is not None:
        rows[line.ifname] = replace(rows[line.ifname], step="added", result=line.result)


def _is_container(name: str) -> bool:
    try:
        return bool(check_container_id(name))
    except CniError:
        return False


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("record %s: %s", path, error.strerror)
