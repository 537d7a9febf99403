"""The leases of one network on disk, in the format of host-local: one file per address, under one lock.

The folder <dataDir>/<network> contains: a file per address, named like the address, with the content
"<container id>CRLF<ifname>" (old versions: the container id only); last_reserved_ip.<number of the range set>; and
`lock`, which every reader and writer locks with flock(2).

A file without content belongs to no container, and is removed: its writer was killed, or the node lost its power
before the content was on the disk (ext4 commits the names of new files after 5 s, their content after up to 30 s).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wirespeed import errors
from wirespeed.cni.address import Ip, parse_ip
from wirespeed.errors import Error, Kind, as_error
from wirespeed.system.filelock import locked
from wirespeed.system.files import open_in_folder

if TYPE_CHECKING:
    from wirespeed.system.inotify import Watch

log = logging.getLogger(__name__)

_NEW = ".new"  # the name of a lease while it is written: it is no address, so it is not read as a lease


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

        Creates the folder if it is missing. Raises Error: TRY_AGAIN if the lock is not free before `deadline`
        (time.monotonic()), IO if the folder cannot be used.
        """
        try:
            with locked(self._thread, self._open_lock, deadline=deadline, busy=self._busy):
                self._refresh()
                yield
        except OSError as error:
            raise as_error(error).within(f"leases in {self.folder}") from error

    def _open_lock(self) -> int:
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
        return open_in_folder(f"{self._path}/lock", flags, 0o640, folder_mode=0o755)

    def _busy(self) -> Error:
        return Error(Kind.TRY_AGAIN, "the lock was not free before the deadline", where=f"leases in {self.folder}")

    def exists(self) -> bool:
        """Whether there is anything to release; needs no lock."""
        return self.folder.is_dir()

    def is_taken(self, ip: Ip) -> bool:
        return str(ip) in self._owners

    def owner(self, ip: Ip) -> tuple[str, str] | None:
        """Return (container id, ifname) of an address; the ifname is "" if the lease has none."""
        content = self._owners.get(str(ip))
        return None if content is None else _split(content)

    def addresses_of(self, container: str, ifname: str) -> list[Ip]:
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
        self._cache(str(ip), content)

    def release(self, ips: Iterable[Ip]) -> None:
        """Delete the leases of addresses."""
        for ip in ips:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}/{ip}")
            self._cache(str(ip), None)

    def last(self, number: int) -> Ip | None:
        """Return the address that was last allocated from the range set with that number."""
        return parse_ip(self._read(f"last_reserved_ip.{number}"))

    def set_last(self, number: int, ip: Ip) -> None:
        self._write(f"{self._path}/last_reserved_ip.{number}", str(ip))

    def _write(self, path: str, content: str) -> None:
        """Replace the file's content without O_TRUNC, with which ext4 waits for the disk (auto_da_alloc)."""
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
            # A power failure may leave NULs in place of the content.
            return os.read(file, 4096).decode(errors="replace").strip().strip("\0")
        finally:
            os.close(file)

    # What is in the folder

    def _refresh(self) -> None:
        stat = os.stat(self._path)
        if self._watch is not None and self._identity == (stat.st_dev, stat.st_ino):
            from wirespeed.system import inotify  # noqa: PLC0415 — see _start_watch

            events = self._watch.events()
            if not any(event.mask & (inotify.IN_Q_OVERFLOW | inotify.IN_IGNORED) for event in events):
                for name in {event.name for event in events}:
                    self._read_lease(name)
                return
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._uses += 1
        if self._uses > 1:
            self._identity = (stat.st_dev, stat.st_ino)
            self._start_watch()
        self._owners.clear()
        self._names.clear()
        for name in os.listdir(self._path):
            self._read_lease(name)

    def _start_watch(self) -> None:
        from wirespeed.system import inotify  # noqa: PLC0415 — loads ctypes, which the first use does not need

        changes = inotify.IN_CLOSE_WRITE | inotify.IN_CREATE | inotify.IN_DELETE
        moves = inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO
        try:
            self._watch = inotify.Watch(self._path, changes | moves | inotify.IN_ONLYDIR)
        except OSError as error:  # the limit fs.inotify.max_user_instances: then every call reads the folder
            log.debug("leases in %s: no watch: %s", self.folder, error)

    def _read_lease(self, name: str) -> None:
        """Update the cache for a file, which may be no lease or be gone."""
        content = None if parse_ip(name) is None else self._read(name)
        if content == "":
            log.warning("leases in %s: %s has no content, and is released", self.folder, name)
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}/{name}")
            content = None
        self._cache(name, content)

    def _cache(self, name: str, content: str | None) -> None:
        """Update the cache for a file: its content, None if it is no lease."""
        before = self._owners.pop(name, None)
        if before is not None:
            self._names[before].discard(name)
            if not self._names[before]:
                del self._names[before]
        if content is not None:
            self._owners[name] = content
            self._names.setdefault(content, set()).add(name)


def release_lost(data: Path, *, container: str = "", deadline: float) -> None:
    """Remove the leases without content of all networks in `data`, and release those of a container, if given.

    Raises Error(TRY_AGAIN, IO) for the first folder that fails, after all others.
    """
    errors.run_all(partial(_release_lost, lock.parent, container, deadline) for lock in sorted(data.glob("*/lock")))


def _release_lost(folder: Path, container: str, deadline: float) -> None:
    leases = Leases(folder)
    with leases.locked(deadline):
        if container:
            leases.release([ip for ip, (owner, _) in leases.owners().items() if owner == container])


def _split(content: str) -> tuple[str, str]:
    container, _, ifname = content.partition("\r\n")
    return container, ifname
