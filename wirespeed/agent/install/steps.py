"""Changes of a node that are all made, or none of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.host.files import sync_folder, unfinished, write_atomically

log = logging.getLogger(__name__)

Undo = Callable[[], None]
KEPT = ".replaced"  # suffix of the name under which a replaced file is kept


@dataclass(frozen=True)
class Step:
    """One change: `what` describes it for the user; `do` makes it and returns the function that undoes it."""

    what: str
    do: Callable[[], Undo]


def execute(steps: Sequence[Step], told: Callable[[str], None]) -> Undo:
    """Make the changes in order; return the function that undoes all of them. `told` is called with each `what`.

    If one fails, those before it are undone in reverse order. Raises CniError, IO_FAILURE for an OSError.
    """
    done: list[Undo] = []

    def undo_all() -> None:
        for undo in reversed(done):
            try:
                undo()
            except (CniError, OSError) as failure:
                log.error("taking it back: %s", failure)  # noqa: TRY400 — the first error is raised

    try:
        for step in steps:
            told(step.what)
            done.append(step.do())
    except BaseException as error:
        undo_all()
        if isinstance(error, OSError):
            raise CniError(Code.IO_FAILURE, f"{error.filename or 'system'}: {error.strerror}") from error
        raise
    return undo_all


@contextlib.contextmanager
def undone_on_failure(undo: Undo) -> Iterator[None]:
    """Undo what a step has done so far, if the rest of it fails."""
    try:
        yield
    except BaseException:
        undo()
        raise


def kept(path: Path) -> Path:
    """Return where the file that was replaced at the path is kept."""
    return path.with_name(path.name + KEPT)


def write(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file; the undo restores its old content, or removes it."""

    def do() -> Undo:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        older = _content(path)
        write_atomically(path, data, mode)
        return lambda: _restore(path, older)

    return Step(what, do)


def replace(path: Path, data: bytes, mode: int, what: str) -> Step:
    """Write the file, and keep the one that it replaces; at every moment there is a file at the path."""

    def do() -> Undo:
        aside, new = kept(path), path.with_name(unfinished(path.name))
        older = _content(aside)
        new.unlink(missing_ok=True)
        os.link(path, new, follow_symlinks=False)
        os.replace(new, aside)
        new.unlink(missing_ok=True)  # rename(2) does nothing if both were links to the same file

        def undo() -> None:
            os.replace(aside, path)
            _restore(aside, older)

        with undone_on_failure(undo):
            write_atomically(path, data, mode)
        return undo

    return Step(what, do)


def put_back(path: Path, what: str) -> Step:
    """Put the kept file back at the path."""

    def do() -> Undo:
        older = _content(path)
        os.replace(kept(path), path)
        sync_folder(path.parent)

        def undo() -> None:
            os.replace(path, kept(path))
            _restore(path, older)

        return undo

    return Step(what, do)


def remove(path: Path, what: str) -> Step:
    """Remove the file."""

    def do() -> Undo:
        older = _content(path)
        path.unlink()
        return lambda: _restore(path, older)

    return Step(what, do)


def _content(path: Path) -> tuple[bytes, int] | None:
    """Return the file's content and mode; None if there is no such file."""
    try:
        return path.read_bytes(), path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def _restore(path: Path, content: tuple[bytes, int] | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, *content)
