"""The journal (SQLite): what was planned and done for each attachment, and which attachment owns which device.

It is on tmpfs, so a reboot removes it together with the settings that it serves to undo. Every change of the node
is written here before it is made; DEL, CHECK, GC and rollback read nothing else. What must survive a reboot is also
written by `wirespeed.state.records`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity

T = TypeVar("T")

_VERSION = 1  # of the schema, as the file's user_version
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attachment (
  container TEXT NOT NULL, ifname TEXT NOT NULL, position INTEGER NOT NULL, netns TEXT NOT NULL,
  step TEXT NOT NULL, record TEXT NOT NULL, result TEXT,
  PRIMARY KEY (container, ifname)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device (
  device TEXT PRIMARY KEY, plugin TEXT NOT NULL, container TEXT NOT NULL, ifname TEXT NOT NULL,
  netns TEXT NOT NULL, netns_dev INTEGER NOT NULL, netns_ino INTEGER NOT NULL, netns_cookie INTEGER NOT NULL,
  step TEXT NOT NULL, record TEXT NOT NULL,
  UNIQUE (container, ifname)
) WITHOUT ROWID;
"""


class AttachmentStep(StrEnum):
    """The progress of an attachment. An interrupted call leaves ADDING or DELETING."""

    PLANNED = "planned"
    ADDING = "adding"
    ADDED = "added"
    DELETING = "deleting"


class ClaimStep(StrEnum):
    """The progress of a claim: the device is claimed, has the requested driver, is in the pod, or is restored and
    only its port must still be removed from a switch that is down.
    """

    CLAIMED = "claimed"
    BOUND = "bound"
    ATTACHED = "attached"
    REMOVING = "removing"


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """One network of one container, as the meta-plugin planned it.

    `record` is what ADD decided, for DEL and CHECK. `result` is the plugin's CNI result, once there is one.
    """

    container: str
    ifname: str
    position: int
    netns: str
    step: AttachmentStep = AttachmentStep.PLANNED
    record: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceClaim:
    """The claim of one interface of one container on a device (PCI address).

    `netns` is the path of the network namespace; `identity` identifies the namespace, as a path may be reused.
    `record` has the original state of the device and what ADD changes.
    """

    device: str
    plugin: str
    container: str
    ifname: str
    netns: str
    identity: Identity
    step: ClaimStep = ClaimStep.CLAIMED
    record: dict[str, Any] = field(default_factory=dict)


class DeviceTakenError(Error):
    """The device belongs to another attachment, or the attachment has a device already."""

    def __init__(self, device: str, container: str, ifname: str, owner: DeviceClaim) -> None:
        super().__init__(
            Kind.TRY_AGAIN,
            f"{owner.device} belongs to container {owner.container} {owner.ifname} in {owner.netns}",
            where=f"device {device} for container {container} {ifname}",
        )
        self.owner = owner


_COLUMNS = "container, ifname, position, netns, step, record, result"
_ATTACHMENTS = f"SELECT {_COLUMNS} FROM attachment {{}} ORDER BY container, position"  # noqa: S608


def _attachment(row: tuple[Any, ...]) -> Attachment:
    container, ifname, position, netns, step, record, result = row
    return Attachment(
        container=container,
        ifname=ifname,
        position=position,
        netns=netns,
        step=AttachmentStep(step),
        record=json.loads(record),
        result=json.loads(result) if result else None,
    )


def read_attachments(path: Path) -> list[Attachment]:
    """Return the attachments of all containers, and change nothing: neither a journal nor another file at `path`.

    Raises Error(IO), also if there is no journal.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return [_attachment(row) for row in db.execute(_ATTACHMENTS.format(""))]
    except sqlite3.Error as error:
        raise Error(Kind.IO, str(error), where=f"journal {path}") from error


class Journal:
    """The node's journal at `path` (its folder is created, mode 0700), for several threads and processes.

    Raises Error(IO) if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
            self._create_tables()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _unusable(self, reason: object) -> Error:
        return Error(Kind.IO, str(reason), where=f"journal {self.path}")

    def _open(self) -> None:
        """Open the file at `path`. If that fails, the connection that was used before stays in use."""
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            self.path.chmod(0o600)
            stat = self.path.stat()
            # The file is on tmpfs: it survives a killed process without sync, and no sync makes it survive a
            # reboot.
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, (stat.st_dev, stat.st_ino)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _create_tables(self) -> None:
        """Create the tables of a new file. Raises Error(IO) for a file with another version."""
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found not in {0, _VERSION}:
            expected = f"version {_VERSION}"
            raise Error(Kind.IO, where=f"journal {self.path}", expected=expected, got=found)
        if not found:
            self._db.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")

    def rewrite_if_removed(self) -> bool:
        """Write the file again if another program removed it; return whether it was written.

        If another file has taken its place, that file is left alone: `check_usable` reports it.
        Raises Error(IO); the next call tries again, with all that was written until then.
        """
        if self.path.exists():
            return False
        with self._locked() as removed:  # this connection has all rows, and stays in use until the new file is open
            self._replace_by_copy()
            removed.close()
        return True

    def _replace_by_copy(self) -> None:
        """Write a copy of the database to `path`, and open it. Raises OSError and sqlite3.Error."""
        new = self.path.with_name(f"{self.path.name}~")
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as copy:
            self._db.backup(copy)
        for suffix in ("-wal", "-shm"):  # the removed file's, which the new one must not share
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)
        new.rename(self.path)
        try:
            self._open()
        except BaseException:
            self.path.unlink(missing_ok=True)  # so that the next call writes it again
            raise

    def check_usable(self) -> None:
        """Raise Error(IO) if changes cannot be written, or the open file is not the one at `path`."""
        with self._write() as db:
            db.execute(f"PRAGMA user_version = {_VERSION}")
        try:
            stat = self.path.stat()
        except OSError as error:
            raise self._unusable(error.strerror) from error
        if (stat.st_dev, stat.st_ino) != self._file:
            raise self._unusable("another file has taken its place")

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except (OSError, sqlite3.Error) as error:
                raise self._unusable(error) from error

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Run several statements that write in one transaction."""
        with self._locked() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _change(self, query: str, *values: object) -> int:
        """Run one statement that writes, as a transaction; return how many rows it changed."""
        return self._execute(query, values, lambda cursor: cursor.rowcount)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._execute(query, values, sqlite3.Cursor.fetchall)

    def _execute(self, query: str, values: Sequence[object], result: Callable[[sqlite3.Cursor], T]) -> T:
        with self._lock:
            try:
                return result(self._db.execute(query, values))
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    # Attachments: the meta-plugin's plan

    def plan(self, attachments: Sequence[Attachment]) -> None:
        """Write the whole plan of a container, before the first change.

        Raises Error(INTERFACE) if the container has one of these interfaces already.
        """
        rows = [(a.container, a.ifname, a.position, a.netns, a.step, json.dumps(a.record)) for a in attachments]
        try:
            with self._write() as db:
                db.executemany("INSERT INTO attachment VALUES (?,?,?,?,?,?,NULL)", rows)
        except Error as error:
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                known = ", ".join(a.ifname for a in self.attachments(attachments[0].container))
                what = f"container {attachments[0].container} is already attached ({known})"
                raise Error(Kind.INTERFACE, what, hint="DEL it first") from error
            raise

    def attachments(self, container: str | None = None) -> list[Attachment]:
        """Return the attachments of a container (or of all), in the order in which ADD makes them."""
        where, values = ("WHERE container = ?", (container,)) if container is not None else ("", ())
        return [_attachment(row) for row in self._read(_ATTACHMENTS.format(where), *values)]

    def restore(self, rows: Sequence[Attachment]) -> None:
        """Write rows from another journal or from a record; existing rows stay unchanged."""
        values = [
            (a.container, a.ifname, a.position, a.netns, a.step, json.dumps(a.record), _json(a.result))
            for a in rows
        ]
        with self._write() as db:
            db.executemany("INSERT OR IGNORE INTO attachment VALUES (?,?,?,?,?,?,?)", values)

    def mark(self, container: str, ifname: str, step: AttachmentStep, result: dict[str, Any] | None = None) -> None:
        """Set the step of an attachment, and its result if there is one."""
        query = "UPDATE attachment SET step = ?, result = coalesce(?, result) WHERE container = ? AND ifname = ?"
        self._change(query, step, _json(result), container, ifname)

    def amend(self, container: str, ifname: str, changes: dict[str, Any]) -> None:
        """Change keys of an attachment's record; None removes a key."""
        query = "UPDATE attachment SET record = json_patch(record, ?) WHERE container = ? AND ifname = ?"
        self._change(query, json.dumps(changes), container, ifname)

    def forget(self, container: str, ifname: str) -> None:
        """Delete an attachment that has been undone."""
        self._change("DELETE FROM attachment WHERE container = ? AND ifname = ?", container, ifname)

    def _has_other_attachments(self, container: str, ifname: str) -> bool:
        """Whether the container has other attachments than that one."""
        query = "SELECT 1 FROM attachment WHERE container = ? AND ifname != ? LIMIT 1"
        return bool(self._read(query, container, ifname))

    # Devices: who owns which

    def claim(self, claim: DeviceClaim) -> None:
        """Make the claim's container and interface the owner of the device.

        Raises DeviceTakenError if it has another owner, or the interface has a device already.
        """
        query = "INSERT INTO device VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
        netns = (claim.netns, claim.identity.dev, claim.identity.ino, claim.identity.cookie)
        row = (
            claim.device,
            claim.plugin,
            claim.container,
            claim.ifname,
            *netns,
            claim.step,
            json.dumps(claim.record),
        )
        while not self._change(query, *row):
            owner = self.owner(claim.device) or self.device_of(claim.container, claim.ifname)
            if owner is not None:  # else it was released meanwhile: retry at once
                raise DeviceTakenError(claim.device, claim.container, claim.ifname, owner)

    def advance(self, claim: DeviceClaim, step: ClaimStep, record: dict[str, Any] | None = None) -> None:
        """Set the step of a claim, before the step is made, and its record if that changed."""
        query = (
            "UPDATE device SET step = ?, record = coalesce(?, record) "
            "WHERE device = ? AND container = ? AND ifname = ?"
        )
        self._change(query, step, _json(record), claim.device, claim.container, claim.ifname)

    def release(self, claim: DeviceClaim) -> None:
        """Release the device, if this claim still owns it."""
        query = "DELETE FROM device WHERE device = ? AND container = ? AND ifname = ?"
        self._change(query, claim.device, claim.container, claim.ifname)

    def owner(self, device: str) -> DeviceClaim | None:
        """Return the claim on the device, None if it has no owner."""
        return next(iter(self._claims("WHERE device = ?", device)), None)

    def device_of(self, container: str, ifname: str) -> DeviceClaim | None:
        """Return the claim of a container's interface, None if it has no device."""
        return next(iter(self._claims("WHERE container = ? AND ifname = ?", container, ifname)), None)

    def claims(self, *, step: ClaimStep | None = None, mentioning: str = "") -> list[DeviceClaim]:
        """Return all claims, or those at a step, or those whose record contains the text `mentioning`."""
        if mentioning:
            return self._claims("WHERE instr(record, ?)", mentioning)
        return self._claims("WHERE step = ?", step) if step else self._claims("")

    def _claims(self, where: str, *values: str) -> list[DeviceClaim]:
        rows = self._read(
            "SELECT device, plugin, container, ifname, netns, netns_dev, netns_ino, netns_cookie, step, record "  # noqa: S608
            f"FROM device {where} ORDER BY device",
            *values,
        )
        return [
            DeviceClaim(
                device=d,
                plugin=p,
                container=c,
                ifname=i,
                netns=n,
                identity=Identity(nd, ni, nc),
                step=ClaimStep(s),
                record=json.loads(r),
            )
            for d, p, c, i, n, nd, ni, nc, s, r in rows
        ]


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
