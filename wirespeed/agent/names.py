"""Keeps the plugin names that `wirespeed install --replace` took, if other programs copy their own files over them.

A DaemonSet that installs a plugin copies it at each start, over the shim. Its file is saved, so that `wirespeed
uninstall` restores the newest one. The pods that this plugin has attached until then are taken over, as their DEL
will be a call of the shim.
"""

from __future__ import annotations

import enum
import logging
import math
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wirespeed.agent.changes import CHANGED, RECHECK_INTERVAL, event_descriptor, folder_changes, wait
from wirespeed.agent.install import binaries, content
from wirespeed.errors import Error, Kind, as_error
from wirespeed.kube.cluster import Event
from wirespeed.metrics import Family
from wirespeed.node import Node
from wirespeed.steps import backup_path, carry_out
from wirespeed.system.files import open_for_writing
from wirespeed.system.inotify import IN_ATTRIB, IN_MODIFY
from wirespeed.takeover import caches
from wirespeed.takeover.record import Record

log = logging.getLogger(__name__)

# Seconds until a file that is being written is checked again: inotify reports its close shortly before the kernel
# no longer counts it as open for writing.
_WRITER_RECHECK = 0.1
_WRITE_QUIET = 1.0  # seconds without a change after which a file counts as written, if the kernel cannot tell
_BACKOFF = (1.0, 60.0)  # seconds until a name is taken back once more, for times in a row: the first, and at most
_RESET_AFTER = 120.0  # seconds after which the next time does not count as in a row with the last one
_CONTESTED_TIMES = 4  # times in a row after which the name counts as contested
_CALLS_TIMEOUT = 5.0  # seconds for calls of the other plugin to end, and until the next attempt


class _State(enum.Enum):
    """Whose file is at the name's path."""

    OURS = enum.auto()
    MISSING = enum.auto()
    WRITTEN = enum.auto()  # another program's file that is still being written, or is not executable yet
    THEIRS = enum.auto()


# Seconds for which each state is tolerated. If a file is missing, another program most often is about to put a new
# one there.
_GRACE = {_State.OURS: math.inf, _State.MISSING: 1.0, _State.WRITTEN: 30.0, _State.THEIRS: 0.0}


@dataclass
class _Name:
    """A name and its history; `since`, `last` and `due` are time.monotonic() values."""

    path: Path
    state: _State = _State.OURS
    since: float = 0.0
    reinstalled: int = 0
    in_a_row: int = 0
    last: float = -math.inf  # when it was last taken back
    due: float = 0.0  # it is not taken back before that
    last_problem: str = ""  # the last problem that was logged


class Names:
    """Takes back the names of `record`. Failures are logged and retried."""

    def __init__(self, node: Node, record: Record) -> None:
        self._node, self._record, self._folder = node, record, Path(record.bin_dir)
        self._names = [_Name(self._folder / name) for name in binaries.names_of(record.replaced)]
        self._shim = b""  # as last read
        self._take_over_due = 0.0  # when other tools' pods are taken over next: at the start, and after a reinstall
        self._problems: set[str] = set()  # problems with that which were logged already
        node.metrics.append(self.metrics)

    def run(self, stop: threading.Event) -> None:
        """Check the names now and after each change in the folder, until `stop` is set."""
        with suppress(Error):
            self._read_shim()
        with event_descriptor(stop, name="plugin names end") as stopped:
            while not stop.is_set():
                # Watch first, then check, so that no change in between is missed. IN_MODIFY: who opens the file to
                # write into it is noticed at once, not when it is closed.
                with folder_changes(self._folder, CHANGED | IN_ATTRIB | IN_MODIFY) as changes:
                    wait([changes, stopped], self._check_all())

    def metrics(self) -> Iterator[Family]:
        """Yield the metric that counts how often each name was taken back."""
        text = "Times that the shim was reinstalled under a plugin's name that another program had replaced"
        family = Family("wirespeed_plugin_names_taken_back", "counter", text, labels=("name",))
        for name in self._names:
            family.add(name.path.name, value=float(name.reinstalled))
        yield family

    def _check_all(self) -> float:
        """Take back the names that are due; return the seconds until the next check without an event."""
        soonest = min([RECHECK_INTERVAL, *map(self._check, self._names)])
        ours = all(name.state is _State.OURS for name in self._names)
        if ours and time.monotonic() >= self._take_over_due:  # before all are ours, more pods may be attached
            done = self._take_over()
            self._take_over_due = math.inf if done else time.monotonic() + _CALLS_TIMEOUT
        return min(soonest, max(0.0, self._take_over_due - time.monotonic())) if ours else soonest

    def _check(self, name: _Name) -> float:
        now = time.monotonic()
        try:
            state = _state(name.path)
            if state != name.state:
                name.state, name.since = state, now
            if state is _State.OURS:
                name.last_problem = ""
                return math.inf
            due = max(name.due, name.since + _GRACE[state])
            if now < due:
                return min(due - now, _WRITER_RECHECK) if state is _State.WRITTEN else due - now
            self._reinstall(name)
        except (Error, OSError) as error:
            name.due = now + RECHECK_INTERVAL  # the attempt itself may have caused an event
            text = as_error(error).msg
            if text != name.last_problem:
                log.error("%s is not wirespeed's any more, and cannot be taken back: %s", name.path, text)  # noqa: TRY400
            name.last_problem = text
            return RECHECK_INTERVAL
        return math.inf

    def _reinstall(self, name: _Name) -> None:
        if not self._folder.is_dir():
            raise Error(Kind.IO, "the runtime's folder of plugins does not exist", where=f"folder {self._folder}")
        what_happened = _what_happened(name)
        binaries.reinstall(name.path, self._read_shim())
        now = time.monotonic()  # read again, as writing may take long on a busy disk
        first, most = _BACKOFF
        name.in_a_row = name.in_a_row + 1 if now - name.last < _RESET_AFTER else 1
        name.due = now + (min(most, first * 2.0 ** (name.in_a_row - 2)) if name.in_a_row > 1 else 0.0)
        name.state, name.last, name.last_problem = _State.OURS, now, ""
        name.reinstalled += 1
        self._take_over_due = now
        self._report("PluginTakenBack", f"{name.path} {what_happened}; wirespeed's shim is there again")
        if name.in_a_row == _CONTESTED_TIMES:
            self._report(
                "PluginContested",
                f"{name.path} is contested: {_CONTESTED_TIMES} times in a row it {what_happened}; stop the "
                "program that does it, or take the name out of --replace. "
                f"Until then it is taken back after up to {most:g} s",
            )

    def _take_over(self) -> bool:
        """Take over the pods that other tools attached under these names; return whether it need not be retried."""
        config = self._node.config
        problems: list[Error] = []
        try:
            carry_out([binaries.await_calls(self._folder, self._record.replaced, _CALLS_TIMEOUT)])
            for found in caches.find(self._record, config):
                problems += found.problems
                for step in caches.take_over(found, config):
                    carry_out([step], lambda _number, step: log.info("%s", step.what))
        except (Error, OSError) as error:
            self._log_problems([as_error(error)])
            return False
        self._log_problems(problems)
        log.debug("looked for pods of other tools to take over")
        return True

    def _log_problems(self, problems: list[Error]) -> None:
        texts = {problem.msg: None for problem in problems}
        for text in texts:
            if text not in self._problems:
                log.warning("pods that were attached by other tools: %s", text)
        self._problems = set(texts)

    def _read_shim(self) -> bytes:
        """Read the installed shim under wirespeed's own name; if it is gone, return what was read before."""
        try:
            self._shim = binaries.read_shim(self._folder / "wirespeed")
        except Error:
            if not self._shim:
                raise
        return self._shim

    def _report(self, reason: str, message: str) -> None:
        log.warning("%s", message)
        if self._node.config.cluster.events:
            with suppress(Error):  # an unusable cluster was reported at the start
                name = self._node.name
                self._node.cluster.event(
                    Event(kind="Node", name=name, uid=name, reason=reason, message=message, warning=True)
                )


def _what_happened(name: _Name) -> str:
    """Return what happened to a name, as the end of a sentence. Raises OSError."""
    if name.state is _State.MISSING:
        return "was removed"
    aside = backup_path(name.path).name
    if name.state is _State.WRITTEN:
        return f"has been open for writing for too long; its writer now writes to {aside}"
    return f"was replaced by {content.describe(name.path)}, which is kept as {aside}"


def _state(path: Path) -> _State:
    """Return whose file is at the path now. Raises OSError."""
    try:
        if binaries.is_shim(path):
            return _State.OURS
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return _State.THEIRS
        writing = open_for_writing(path)
    except FileNotFoundError:
        return _State.MISSING
    if writing is None:
        writing = time.time() - found.st_ctime < _WRITE_QUIET
    return _State.WRITTEN if writing or not found.st_mode & 0o111 else _State.THEIRS
