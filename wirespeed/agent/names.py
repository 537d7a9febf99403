"""Keeps the plugin names that `wirespeed install --replace` took, if other programs copy their own files over them.

A DaemonSet that installs a plugin copies it at each start, without knowing that the shim has that name. The file
that it brought is kept, so that `wirespeed uninstall` restores the newest one. The pods that it attached meanwhile
are taken over, as their DEL will be called here.

A writer is not disturbed: a file that is still being written is left alone for up to 30 s. So is a missing file for
a moment, as it is most often about to be replaced by another one.
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

from wirespeed.agent.install import binaries, content
from wirespeed.agent.notices import CHANGED, LOOK_AGAIN, noticed, readable_once, wait
from wirespeed.cni.errors import CniError, Code
from wirespeed.kube.cluster import NodeEvent
from wirespeed.metrics import Family
from wirespeed.node import Node
from wirespeed.steps import carry_out, kept
from wirespeed.system.files import open_for_writing
from wirespeed.system.inotify import IN_ATTRIB, IN_MODIFY
from wirespeed.takeover import caches
from wirespeed.takeover.record import Record

log = logging.getLogger(__name__)

# Seconds until a file that is being written is checked again: inotify reports its close shortly before the kernel
# no longer counts it as open for writing.
_LOOK_AT_WRITER = 0.1
_UNTOUCHED = 1.0  # seconds without a change after which a file counts as written, if the kernel does not report it
_PAUSES = (1.0, 60.0)  # seconds until a name is taken back once more, for times in a row: the first, and at most
_CALM = 120.0  # seconds after which the next time does not count as in a row with the last one
_FIGHT = 4  # times in a row after which the name counts as contested
_CALLS_END = 5.0  # seconds for calls of the other plugin to end, and until the next attempt


class _State(enum.Enum):
    """Whose file has the name."""

    OURS = enum.auto()
    NOBODY = enum.auto()
    WRITTEN = enum.auto()  # another program's file that is still being written, or is not executable yet
    THEIRS = enum.auto()


# Seconds for which each state is tolerated.
_GRACE = {_State.OURS: math.inf, _State.NOBODY: 1.0, _State.WRITTEN: 30.0, _State.THEIRS: 0.0}


@dataclass
class _Name:
    """A name and its history; `since`, `last` and `due` are time.monotonic() values."""

    path: Path
    state: _State = _State.OURS
    since: float = 0.0
    taken_back: int = 0
    in_a_row: int = 0
    last: float = -math.inf  # when it was last taken back
    due: float = 0.0  # it is not taken back before that
    complaint: str = ""  # the last problem that was logged


class Names:
    """Takes back the names of `record`. Failures are logged and retried."""

    def __init__(self, node: Node, record: Record) -> None:
        self._node, self._record, self._folder = node, record, Path(record.bin_dir)
        self._names = [_Name(self._folder / name) for name in binaries.names_of(record.replaced)]
        self._shim = b""  # as last read
        self._take_over_due = 0.0  # when others' pods are taken over next: at the start, and after a take-back
        self._problems: set[str] = set()  # problems with that which were logged already
        node.metrics.append(self.figures)

    def run(self, stop: threading.Event) -> None:
        """Check the names now and after each change in the folder, until `stop` is set."""
        with suppress(CniError):
            self._read_shim()
        with readable_once(stop, name="plugin names end") as stopped:
            while not stop.is_set():
                # Watch first, then check, so that no change in between is missed. IN_MODIFY: who opens the file to
                # write into it is noticed at once, not when it is closed.
                with noticed(self._folder, CHANGED | IN_ATTRIB | IN_MODIFY) as notices:
                    wait([notices, stopped], self._keep_all())

    def figures(self) -> Iterator[Family]:
        """Yield the metric that counts how often each name was taken back."""
        family = Family(
            name="wirespeed_plugin_names_taken_back",
            kind="counter",
            text="Times that somebody had put another file under a plugin's name that the shim has",
            labels=("name",),
        )
        for name in self._names:
            family.add(name.path.name, value=float(name.taken_back))
        yield family

    def _keep_all(self) -> float:
        """Take back the names that are due; return the seconds until the next check without an event."""
        soonest = min([LOOK_AGAIN, *map(self._keep, self._names)])
        ours = all(name.state is _State.OURS for name in self._names)
        if ours and time.monotonic() >= self._take_over_due:  # before all are ours, more pods may be attached
            done = self._take_over()
            self._take_over_due = math.inf if done else time.monotonic() + _CALLS_END
        return min(soonest, max(0.0, self._take_over_due - time.monotonic())) if ours else soonest

    def _keep(self, name: _Name) -> float:
        now = time.monotonic()
        try:
            state = _state(name.path)
            if state != name.state:
                name.state, name.since = state, now
            if state is _State.OURS:
                name.complaint = ""
                return math.inf
            due = max(name.due, name.since + _GRACE[state])
            if now < due:
                return min(due - now, _LOOK_AT_WRITER) if state is _State.WRITTEN else due - now
            self._take_back(name)
        except (CniError, OSError) as error:
            name.due = now + LOOK_AGAIN  # the attempt itself may have caused an event
            text = error.msg if isinstance(error, CniError) else f"{error.filename or name.path}: {error.strerror}"
            if text != name.complaint:
                log.error("%s is not wirespeed's any more, and cannot be taken back: %s", name.path, text)  # noqa: TRY400
            name.complaint = text
            return LOOK_AGAIN
        return math.inf

    def _take_back(self, name: _Name) -> None:
        if not self._folder.is_dir():
            raise CniError(
                Code.IO_FAILURE, f"folder {self._folder}: expected the runtime's folder of plugins, there is none"
            )
        how = _how(name)
        binaries.take_back(name.path, self._read_shim())
        now = time.monotonic()  # taken anew, as writing may take long on a busy disk
        first, most = _PAUSES
        name.in_a_row = name.in_a_row + 1 if now - name.last < _CALM else 1
        name.due = now + (min(most, first * 2.0 ** (name.in_a_row - 2)) if name.in_a_row > 1 else 0.0)
        name.state, name.last, name.complaint = _State.OURS, now, ""
        name.taken_back += 1
        self._take_over_due = now
        self._tell("PluginTakenBack", f"{name.path} {how}; wirespeed's shim is there again")
        if name.in_a_row == _FIGHT:
            self._tell(
                "PluginContested",
                f"{name.path} is fought over: {_FIGHT} times in a row it {how}; end what does that, or take the "
                f"name out of --replace. Until then it is taken back after up to {most:g} s",
            )

    def _take_over(self) -> bool:
        """Take over the pods that other tools attached under these names; return whether it need not be retried."""
        config, problems = self._node.config, []
        try:
            carry_out([binaries.await_calls(self._folder, self._record.replaced, _CALLS_END)])
            for found in caches.find(self._record, config):
                problems += found.problems
                for step in caches.take_over(found, config):
                    carry_out([step], lambda _number, step: log.info("%s", step.what))
        except (CniError, OSError) as error:
            self._complain_of([error.msg if isinstance(error, CniError) else str(error)])
            return False
        self._complain_of(problems)
        log.debug("looked for pods of others to take over")
        return True

    def _complain_of(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.warning("pods that were attached by others: %s", problem)
        self._problems = set(problems)

    def _read_shim(self) -> bytes:
        """Read the installed shim under wirespeed's own name; if it is gone, return what was read before."""
        try:
            self._shim = binaries.read_shim(self._folder / "wirespeed")
        except CniError:
            if not self._shim:
                raise
        return self._shim

    def _tell(self, reason: str, message: str) -> None:
        log.warning("%s", message)
        if self._node.config.cluster.events:
            with suppress(CniError):  # an unusable cluster was reported at the start
                self._node.cluster.event(
                    NodeEvent(name=self._node.name, reason=reason, message=message, warning=True)
                )


def _how(name: _Name) -> str:
    """Return what happened to a name, as the end of a sentence. Raises OSError."""
    if name.state is _State.NOBODY:
        return "was removed"
    aside = kept(name.path).name
    if name.state is _State.WRITTEN:
        return f"is being written for long, which goes on in {aside}"
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
        return _State.NOBODY
    if writing is None:
        writing = time.time() - found.st_ctime < _UNTOUCHED
    return _State.WRITTEN if writing or not found.st_mode & 0o111 else _State.THEIRS
