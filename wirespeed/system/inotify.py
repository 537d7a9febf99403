"""Notification of changed files (inotify)."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import weakref
from pathlib import Path
from typing import NamedTuple

IN_MODIFY = 0x0002
IN_ATTRIB = 0x0004
IN_CLOSE_WRITE = 0x0008
IN_MOVED_FROM = 0x0040
IN_MOVED_TO = 0x0080
IN_CREATE = 0x0100
IN_DELETE = 0x0200
IN_DELETE_SELF = 0x0400
IN_MOVE_SELF = 0x0800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000

ENTRY_ADDED = IN_CREATE | IN_MOVED_TO
ENTRY_REMOVED = IN_DELETE | IN_MOVED_FROM
WATCH_ENDED = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED  # the watched folder itself is gone

_HEADER = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len
_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """What happened (`mask`), and to which entry of the watched folder; "" is the watched file or folder itself."""

    mask: int
    name: str


class Watch:
    """A watch of one file or folder for the events of `mask`. Raises OSError: ENOSPC or EMFILE at the limits."""

    def __init__(self, path: str, mask: int) -> None:
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error(path)
        self.close = weakref.finalize(self, os.close, self._fd)  # also closes it at garbage collection
        if _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
            error = _error(path)
            self.close()
            raise error

    def fileno(self) -> int:
        return self._fd

    def wait(self, seconds: float) -> bool:
        """Wait for an event; return whether one came within that time."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def events(self) -> list[Event]:
        """Return the events since the last call, without waiting.

        A change that another process made before it released a lock is included once the lock is taken here.
        """
        found: list[Event] = []
        while True:
            try:
                buffer = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(buffer):
                _, mask, _, length = _HEADER.unpack_from(buffer, at)
                at += _HEADER.size
                found.append(Event(mask, os.fsdecode(buffer[at : at + length].rstrip(b"\0"))))
                at += length


class FolderWatch(Watch):
    """A watch of one folder, which can be polled with other descriptors. Raises OSError if there is no folder."""

    def __init__(self, folder: Path) -> None:
        wanted = ENTRY_ADDED | ENTRY_REMOVED | IN_DELETE_SELF | IN_MOVE_SELF
        super().__init__(str(folder), wanted | IN_ONLYDIR)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
