"""Changes of the node that are made together or not at all. If a step fails, those before it are undone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wirespeed.cni.errors import CniError, Code
from wirespeed.system.files import sync_folder, unfinished, write_atomically

log = logging.getLogger(__name__)

KEPT = ".replaced"  # suffix of the name under which a replaced file is kept


class Failure(NamedTuple):
    """Something that could not be undone, and the reason."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class Undo:
    """A stack of functions that undo what was done. All are run, in reverse order, even if some fail."""

    def __init__(self) -> None:
        self._pushed: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, undo: Callable[[], object]) -> None:
        """Add a function; `what` names the change that it undoes, for the message if it fails."""
        self._pushed.append((what, undo))

    def run(self) -> list[Failure]:
        """Run all functions, and empty the stack; return the failures."""
        failures = []
        while self._pushed:
            what, undo = self._pushed.pop()
            try:
                undo()
            except (CniError, OSError) as error:
                failures.append(Failure(what, _reason(error)))
            except Exception as error:
                log.exception("%s", what)
                failures.append(Failure(what, repr(error)))
        return failures


@dataclass(frozen=True)
class Step:
    """One change: `what` describes it for the user, `do` makes it.

    `do` pushes what undoes the change, at the latest when it has made it. If it fails, what it has pushed is run.
    """

    what: str
    do: Callable[[Undo], object]


class StepError(CniError):
    """The error of the step that failed. All changes are undone, except those in `left`, which it names."""

    def __init__(self, what: str, error: CniError | OSError, left: list[Failure]) -> None:
        code, details = (error.code, error.details) if isinstance(error, CniError) else (Code.IO_FAILURE, "")
        also = f"; not taken back: {'; '.join(f'{each.what} ({each.why})' for each in left)}" if left else ""
        super().__init__(code, _reason(error) + also, details)
        self.what, self.left = what, left


def carry_out(steps: Iterable[Step], progress: Callable[[int, Step], object] = lambda _number, _step: None) -> None:
    """Make the changes in order; `progress` is called before each step. If one fails, all are undone.

    They are undone after any exception. Raises StepError for a CniError or OSError.
    """
    undo, what = Undo(), ""
    try:
        for number, step in enumerate(steps):
            what = step.what
            progress(number, step)
            step.do(undo)
    except BaseException as error:
        left = undo.run()
        if isinstance(error, CniError | OSError):
            raise StepError(what, error, left) from error
        for failure in left:
            log.error("not taken back: %s", failure)  # noqa: TRY400 — the first error is raised
        raise


def _reason(error: CniError | OSError) -> str:
    return error.msg if isinstance(error, CniError) else f"{error.filename or 'system'}: {error.strerror}"


# Steps that change files


def kept(path: Path) -> Path:
    """Return where the file that was replaced at the path is kept."""
    return path.with_name(path.name + KEPT)


def write(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file; the undo restores its old content, or removes it."""

    def do(undo: Undo) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Pushed first: an error may also come after the rename, when the folder is written to disk.
        undo.push(str(path), partial(_restore, path, _content(path)))
        write_atomically(path, data, mode)

    return Step(what, do)


def replace(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file, and keep the one that it replaces; at every moment there is a file at the path."""

    def do(undo: Undo) -> None:
        aside, new = kept(path), path.with_name(unfinished(path.name))
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


def put_back(path: Path, what: str) -> Step:
    """Put the kept file back at the path."""

    def do(undo: Undo) -> None:
        older = _content(path)
        os.replace(kept(path), path)

        def back() -> None:
            os.replace(path, kept(path))
            _restore(path, older)

        undo.push(str(path), back)
        sync_folder(path.parent)

    return Step(what, do)


def remove(path: Path, what: str) -> Step:
    """Remove the file."""

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
    """Write the content that the path had; nothing if it still has it, as on a full disk."""
    if content is None:
        path.unlink(missing_ok=True)
    elif _content(path) != content:
        write_atomically(path, *content)
