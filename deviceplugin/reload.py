"""Triggers a reload of the pools' configuration when its file changes or a reload is requested."""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Callable
from pathlib import Path

from wirespeed.system import inotify
from wirespeed.system.inotify import WATCH_ENDED

log = logging.getLogger(__name__)

_LINKS = 40  # the kernel's limit of symlinks in a path
_CHANGES = inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO | inotify.IN_MOVED_FROM | inotify.IN_DELETE
_WATCHED = _CHANGES | inotify.IN_CREATE | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_ONLYDIR


class Reloader:
    """Calls `reload` when the file's content changes (initially it is `text`), and on request.

    It watches the folders of the file and of all symlinks that lead to it: a ConfigMap's file is a symlink to
    ..data/<file>, and ..data is a symlink that is replaced when the ConfigMap changes. `follow` runs in one thread;
    `request` is thread-safe. Raises OSError.
    """

    def __init__(self, file: Path, text: bytes | None, reload: Callable[[], None]) -> None:
        self._file, self._text, self._reload = file, text, reload
        self._requested = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watches: dict[Path, inotify.Watch] = {}

    def request(self) -> None:
        """Request a reload even if the file has not changed; also allowed in a signal handler."""
        os.eventfd_write(self._requested, 1)

    def follow(self, ended: int) -> None:
        """Reload on changes and requests until the descriptor `ended` is readable."""
        changed = True  # the file may have changed before it was watched
        while True:
            self._watch()
            text = content(self._file) if changed else self._text
            if self._take_request() or text != self._text:
                self._text = text
                self._reload()
            poller = select.poll()
            for file in (ended, self._requested, *(watch.fileno() for watch in self._watches.values())):
                poller.register(file, select.POLLIN)
            if ended in dict(poller.poll()):
                return
            changed = self._take_events()

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        os.close(self._requested)

    def _watch(self) -> None:
        """Watch the folders on the current path of the file. A missing one is tried again after the next event."""
        wanted = _folders(self._file)
        for folder in self._watches.keys() - wanted:
            self._watches.pop(folder).close()
        for folder in wanted - self._watches.keys():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._watches[folder] = inotify.Watch(str(folder), _WATCHED)

    def _take_request(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self._requested) > 0
        return False

    def _take_events(self) -> bool:
        """Return whether the content may have changed. A new file counts when it is closed, a symlink at once."""
        changed = False
        for folder, watch in list(self._watches.items()):
            events = watch.events()
            changed |= any(
                event.mask & ~inotify.IN_CREATE or (folder / event.name).is_symlink() for event in events
            )
            if any(event.mask & WATCH_ENDED for event in events):
                self._watches.pop(folder).close()
                log.warning(
                    "folder %s was removed; send SIGHUP to reload the configuration when it is back", folder
                )
        return changed


def _folders(file: Path) -> set[Path]:
    """Return the folders to watch: those of the file and of each symlink on the way to it."""
    found: set[Path] = set()
    here, rest, links = Path("/"), list(file.absolute().parts[1:]), 0
    while rest:
        name = rest.pop(0)
        path = here.parent if name == ".." else here / name
        if path.is_symlink() and links < _LINKS:
            found.add(here)
            target, links = path.readlink(), links + 1
            here = Path("/") if target.is_absolute() else here
            rest = [*target.parts[target.is_absolute() :], *rest]
        else:
            here = path
    return {*found, here.parent}


def content(file: Path) -> bytes | None:
    """Return the file's bytes, None if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None
