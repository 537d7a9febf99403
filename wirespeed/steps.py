"""Changes of the node that are made together or not at all. If a step fails, those before it are undone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wirespeed.errors import CombinedError, Error, as_error
from wirespeed.system.files import sync_folder, temporary_name, write_atomically

log = logging.getLogger(__name__)

BACKUP_SUFFIX = ".replaced"  # suffix of the name under which a replaced file is kept


class Failure(NamedTuple):
    """A change that could not be undone, and the reason."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class Undo:
    """A stack of functions that undo what was done. All are run, in reverse order, even if some fail."""

    def __init__(self) -> None:
        self._pushed: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, undo: Callable[[], object]) -> None:
        """Add a function; `what` describes the change that it undoes, for the message if that fails."""
        self._pushed.append((what, undo))

    def run(self) -> list[Failure]:
        """Run all functions, and empty the stack; return the failures."""
        failures = []
        while self._pushed:
            what, undo = self._pushed.pop()
            try:
                undo()
            except (Error, OSError) as error:
                failures.append(Failure(what, as_error(error, fallback="system").msg))
            except Exception as error:
                log.exception("%s", what)
                failures.append(Failure(what, repr(error)))
        return failures


@dataclass(frozen=True)
class Step:
    """One change: `what` describes it for the user, `do` makes it.

    `do` pushes the undo functions, at the latest when it has made the change. If `do` fails, those already pushed
    are run.
    """

    what: str
    do: Callable[[Undo], object]


@dataclass(frozen=True)
class ShownPlan:
    """Changes as a dry run prints them in JSON: what each step would do, and notes for the user."""

    steps: Sequence[str]
    notes: Sequence[str] = ()


class StepError(CombinedError):
    """The error of a failed step. All changes were undone, except those in `left`, which the message lists."""

    def __init__(self, step: str, error: Error | OSError, left: list[Failure]) -> None:
        hint = f"not undone: {'; '.join(f'{what} ({why})' for what, why in left)}" if left else ""
        super().__init__([as_error(error, fallback="system")], hint=hint)
        self.step, self.left = step, left


def carry_out(steps: Iterable[Step], progress: Callable[[int, Step], object] = lambda _number, _step: None) -> None:
    """Make the changes in order; `progress` is called before each step. After any exception, undo all of them.

    Raises StepError for an Error or OSError.
    """
    undo, what = Undo(), ""
    try:
        for number, step in enumerate(steps):
            what = step.what
            progress(number, step)
            step.do(undo)
    except BaseException as error:
        left = undo.run()
        if isinstance(error, Error | OSError):
            raise StepError(what, error, left) from error
        for failure in left:
            log.error("not undone: %s", failure)  # noqa: TRY400 — the first error is raised
        raise


# Steps that change files


def backup_path(path: Path) -> Path:
    """Return the path where `replace` keeps the old file."""
    return path.with_name(path.name + BACKUP_SUFFIX)


def write(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file; undo restores its old content, or removes it if it is new."""

    def do(undo: Undo) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Pushed first: an error may also come after the rename, when the folder is written to disk.
        undo.push(str(path), partial(_restore, path, _content(path)))
        write_atomically(path, data, mode)

    return Step(what, do)


def replace(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file, and keep the old one (see `backup_path`). The path always has a file."""

    def do(undo: Undo) -> None:
        aside, new = backup_path(path), path.with_name(temporary_name(path.name))
        older = _content(aside)
        new.unlink(missing_ok=True)
        os.link(path, new, follow_symlinks=False)
        os.replace(new, aside)
        new.unlink(missing_ok=True)  # rename(2) does nothing if both were links to the same file

        def back() -> None:
            os.replace(aside, path)
            _restore(aside, older)

        undo.push(str(path), back)
        write_atomically(path, data, mode)

    return Step(what, do)


def restore_backup(path: Path, what: str) -> Step:
    """Restore the file that `replace` kept."""

    def do(undo: Undo) -> None:
        older = _content(path)
        os.replace(backup_path(path), path)

        def back() -> None:
            os.replace(path, backup_path(path))
            _restore(path, older)

        undo.push(str(path), back)
        sync_folder(path.parent)

    return Step(what, do)


def remove(path: Path, what: str) -> Step:
    def do(undo: Undo) -> None:
        older = _content(path)
        path.unlink()
        undo.push(str(path), partial(_restore, path, older))

    return Step(what, do)


def _content(path: Path) -> tuple[bytes, int] | None:
    """Return the file's content and mode; None if there is no such file."""
    try:
        return path.read_bytes(), path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def _restore(path: Path, content: tuple[bytes, int] | None) -> None:
    """Restore the file's content. Does not write if the content is unchanged: the disk may be full."""
    if content is None:
        path.unlink(missing_ok=True)
    elif _content(path) != content:
        write_atomically(path, *content)
