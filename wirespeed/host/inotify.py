"""Notification of files that are added to a folder or removed from it."""

from __future__ import annotations

from pathlib import Path

from wirespeed.cni import inotify

CAME = inotify.IN_CREATE | inotify.IN_MOVED_TO
WENT = inotify.IN_DELETE | inotify.IN_MOVED_FROM
GONE = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_IGNORED  # the folder itself


class FolderWatch(inotify.Watch):
    """A watch of one folder, which can be polled with other descriptors. Raises OSError if there is no folder."""

    def __init__(self, folder: Path) -> None:
        wanted = CAME | WENT | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF
        super().__init__(str(folder), wanted | inotify.IN_ONLYDIR)

    def fileno(self) -> int:
        """The descriptor that is readable when there are events."""
        return self._fd
