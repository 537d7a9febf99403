"""The leases of one network on disk, in the format of host-local: one file per address, under one lock.

The folder <dataDir>/<network> contains: a file per address, named like the address, with the content
"<container id>CRLF<ifname>" (old versions: the container id only); last_reserved_ip.<number of the range set>; and
`lock`, which every reader and writer locks with flock(2).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wirespeed.cni.address import Ip, parse_ip
from wirespeed.cni.errors import CniError, Code
from wirespeed.system.filelock import flock_before

if TYPE_CHECKING:
    from wirespeed.system.inotify import Watch

log = logging.getLogger(__name__)

_NEW = ".new"  # the name of a lease while it is written; as it is no address, nobody reads it as a lease


class Leases:
    """The leases in `folder`. Every method but `locked` and `exists` needs the lock.

    From the second use on, the leases are cached, and inotify reports what other processes changed: reading a few
    hundred files takes longer than the rest of an address allocation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = os.fspath(folder)
        self._thread = threading.Lock()
        self._owners: dict[str, str] = {}  # by file name: its content
        self._names: dict[str, set[str]] = {}  # by content
        self._watch: Watch | None = None
        self._identity: tuple[int, int] | None = None
        self._uses = 0

    @contextmanager
    def locked(self, deadline: float) -> Iterator[None]:
        """Hold the lock, and read the leases.

        Creates the folder if it is missing. Raises CniError: TRY_AGAIN_LATER if the lock is not free before
        `deadline` (time.monotonic()), IO_FAILURE if the folder cannot be used.
        """
        timeout = max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
        if not self._thread.acquire(timeout=timeout):
            raise self._busy()
        try:
            with self._flocked(deadline):
                self._refresh()
                yield
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise CniError(Code.IO_FAILURE, f"leases in {self.folder}: {error.strerror}{where}") from error
        finally:
            self._thread.release()

    def exists(self) -> bool:
        """Whether there is anything to release; needs no lock."""
        return self.folder.is_dir()

    def is_taken(self, ip: Ip) -> bool:
        return str(ip) in self._owners

    def owner(self, ip: Ip) -> tuple[str, str] | None:
        """Return (container id, ifname) of an address; the ifname is "" if the lease has none."""
        content = self._owners.get(str(ip))
        return None if content is None else _split(content)

    def of(self, container: str, ifname: str) -> list[Ip]:
        """Return the addresses of a container's interface; if there are none, those of leases without an ifname."""
        names = self._names.get(f"{container}\r\n{ifname}") or self._names.get(container) or ()
        return sorted(ip for name in names if (ip := parse_ip(name)) is not None)

    def owners(self) -> dict[Ip, tuple[str, str]]:
        """Return (container id, ifname) of every lease."""
        return {ip: _split(content) for name, content in self._owners.items() if (ip := parse_ip(name)) is not None}

    def reserve(self, ip: Ip, container: str, ifname: str) -> None:
        """Write the lease of an address that is not taken, atomically."""
        content = f"{container}\r\n{ifname}"
        new = f"{self._path}/{_NEW}"
        self._write(new, content)
        os.rename(new, f"{self._path}/{ip}")
        self._note(str(ip), content)

    def release(self, ips: Iterable[Ip]) -> None:
        """Delete the leases of addresses."""
        for ip in ips:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}/{ip}")
            self._note(str(ip), None)

    def last(self, number: int) -> Ip | None:
        """Return the address that was last allocated from the range set with that number."""
        return parse_ip(self._read(f"last_reserved_ip.{number}"))

    def set_last(self, number: int, ip: Ip) -> None:
        self._write(f"{self._path}/last_reserved_ip.{number}", str(ip))

    def _write(self, path: str, content: str) -> None:
        """Replace the file's content. Not by O_TRUNC: ext4 would wait for the disk at close (auto_da_alloc)."""
        data = content.encode()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, data)
            if os.fstat(file).st_size != len(data):
                os.ftruncate(file, len(data))
        finally:
            os.close(file)

    def _read(self, name: str) -> str | None:
        """Return the file's content, stripped; None if there is no such file."""
        try:
            file = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.read(file, 4096).decode(errors="replace").strip()
        finally:
            os.close(file)

    # The lock

    @contextmanager
    def _flocked(self, deadline: float) -> Iterator[None]:
        file = self._open_lock()
        try:
            if not flock_before(file, deadline):
                raise self._busy()
            yield
        finally:
            os.close(file)

    def _open_lock(self) -> int:
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(f"{self._path}/lock", flags, 0o640)
        except FileNotFoundError:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            return os.open(f"{self._path}/lock", flags, 0o640)

    def _busy(self) -> CniError:
        return CniError(Code.TRY_AGAIN_LATER, f"leases in {self.folder}: the lock was not free before the deadline")

    # What is in the folder

    def _refresh(self) -> None:
        stat = os.stat(self._path)
        if self._watch is not None and self._identity == (stat.st_dev, stat.st_ino):
            from wirespeed.system import inotify  # noqa: PLC0415 — see _start_watch

            events = self._watch.events()
            if not any(event.mask & (inotify.IN_Q_OVERFLOW | inotify.IN_IGNORED) for event in events):
                for name in {event.name for event in events}:
                    self._note(name, self._content(name))
                return
        self._forget_watch()
        self._uses += 1
        if self._uses > 1:
            self._identity = (stat.st_dev, stat.st_ino)
            self._start_watch()
        self._owners.clear()
        self._names.clear()
        for name in os.listdir(self._path):
            self._note(name, self._content(name))

    def _start_watch(self) -> None:
        from wirespeed.system import inotify  # noqa: PLC0415 — loads ctypes, which the first use does not need

        changes = inotify.IN_CLOSE_WRITE | inotify.IN_CREATE | inotify.IN_DELETE
        moves = inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO
        try:
            self._watch = inotify.Watch(self._path, changes | moves | inotify.IN_ONLYDIR)
        except OSError as error:  # the limit fs.inotify.max_user_instances: then every call reads the folder
            log.debug("leases in %s: no watch: %s", self.folder, error)

    def _forget_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _content(self, name: str) -> str | None:
        """Return the content of a lease file, None if the file is no lease or is gone."""
        return None if parse_ip(name) is None else self._read(name)

    def _note(self, name: str, content: str | None) -> None:
        """Update the cache with what was read or written: the file's content, None for no lease."""
        before = self._owners.pop(name, None)
        if before is not None:
            self._names[before].discard(name)
            if not self._names[before]:
                del self._names[before]
        if content is not None:
            self._owners[name] = content
            self._names.setdefault(content, set()).add(name)


def _split(content: str) -> tuple[str, str]:
    container, _, ifname = content.partition("\r\n")
    return container, ifname
