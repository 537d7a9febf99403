"""Installing the shim under its names in the runtime's folder of plugins, in place of other tools' plugins."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from wirespeed import steps
from wirespeed.errors import Error, Kind, os_errors
from wirespeed.node import ALIASES
from wirespeed.steps import Step, Undo, backup_path, carry_out
from wirespeed.takeover.record import PEERS

OWN_NAMES = sorted(name for name in ALIASES if name.startswith("wirespeed"))
_MAX_SIZE = 8 << 20  # bytes of a shim
_MARK = b"wirespeed: a CNI plugin, called by a container runtime"  # a string in shim/wirespeed-cni.c


def read_shim(path: Path) -> bytes:
    """Read the shim. Raises Error if it cannot be read, or the file is not the shim."""
    with os_errors(f"shim {path}"):
        data = path.read_bytes()
    if _MARK not in data:
        expected = "the executable that is built from wirespeed-cni.c"
        raise Error(Kind.INVALID_CONFIG, where=f"shim {path}", expected=expected)
    return data


def install_steps(shim: bytes, folder: Path, replace: Iterable[str]) -> Iterator[Step]:
    """Return the steps that install the shim under its own names, and under those of the tools in `replace`.

    The executables of those tools are kept as <name>.replaced. Raises Error(POLICY) if a file with one of our
    own names is not the shim.
    """
    for name in OWN_NAMES:
        path = folder / name
        if path.exists() and not is_shim(path):
            expected = "wirespeed's shim or no file"
            raise Error(Kind.POLICY, where=str(path), expected=expected, hint="move this one away")
        yield from _install_one(shim, path)
    for name in names_of(replace):
        path = folder / name
        if path.exists() and not is_shim(path):
            what = f"put the shim at {path}, the file there is kept as {backup_path(path).name}"
            yield steps.replace(path, shim, 0o755, what)
        else:
            yield from _install_one(shim, path)


def _install_one(shim: bytes, path: Path) -> Iterator[Step]:
    # Copies, not links: an installer that overwrites one name in place would change the shim under all names.
    if path.is_symlink() or not path.exists() or path.read_bytes() != shim or path.stat().st_mode & 0o777 != 0o755:
        yield steps.write(path, shim, 0o755, f"put the shim at {path}")


def names_of(peers: Iterable[str]) -> list[str]:
    """Return the names that the shim takes from these tools."""
    return [name for peer in peers for name in PEERS[peer]]


def reinstall(path: Path, shim: bytes) -> None:
    """Reinstall the shim at the path. The file that is there is saved, in place of the one saved before.

    A process that still writes that file continues to write to the saved one. Raises Error.
    """
    exists = path.is_symlink() or path.exists()
    change = steps.replace if exists else steps.write
    carry_out([change(path, shim, 0o755, f"put the shim at {path}")])


def restore_names(folder: Path, names: Iterable[str]) -> Iterator[Step]:
    """Return the steps that remove the shim from these names and restore the files that it replaced.

    If another program has replaced the shim since, that program's file stays, as it is newer than the saved one.
    """
    for name in names:
        path = folder / name
        ours, aside = path.exists() and is_shim(path), os.path.lexists(backup_path(path))
        if aside and (ours or not os.path.lexists(path)):
            yield steps.restore_backup(path, f"put {backup_path(path).name} back at {path}")
        elif aside:
            yield steps.remove(backup_path(path), f"remove {backup_path(path)}: the file at {path} is newer")
        elif ours:
            yield steps.remove(path, f"remove the shim at {path}")


def is_shim(path: Path) -> bool:
    """Whether the file is the shim, in any version; larger files are not read, as Go plugins are much larger."""
    return path.is_file() and path.stat().st_size <= _MAX_SIZE and _MARK in path.read_bytes()


def await_calls(folder: Path, replace: Iterable[str], seconds: float) -> Step:
    """Wait until running calls of the replaced executables end: they still write state that is taken over next."""

    def do(_undo: Undo) -> None:
        until = time.monotonic() + seconds
        for name in names_of(replace):
            _await_processes(backup_path(folder / name), until)

    return Step("wait for calls of the replaced plugins to end", do)


def _await_processes(executable: Path, until: float) -> None:
    try:
        wanted = executable.stat()
    except FileNotFoundError:
        return
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            process = os.pidfd_open(int(pid))
        except ProcessLookupError:
            continue
        try:
            # Read after the pidfd was opened: if the process still exists then, the PID was not reused.
            if os.path.samestat(os.stat(f"/proc/{pid}/exe"), wanted):
                poller = select.poll()  # select(2) fails for descriptors above 1023
                poller.register(process, select.POLLIN)
                if not poller.poll(math.ceil(1000 * max(0.0, until - time.monotonic()))):
                    text = f"process {pid}, which runs it, does not end"
                    raise Error(Kind.TRY_AGAIN, text, where=str(executable))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, is a kernel thread, or cannot be inspected and so is none of a runtime's
        finally:
            os.close(process)
