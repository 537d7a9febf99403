"""Installing the shim under its names in the runtime's folder of plugins, in place of other tools' plugins."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from wirespeed import steps
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import ALIASES
from wirespeed.steps import Step, Undo, carry_out, kept
from wirespeed.takeover.record import PEERS

OWN_NAMES = sorted(name for name in ALIASES if name.startswith("wirespeed"))
_MOST = 8 << 20  # bytes of a shim
_MARK = b"wirespeed: a CNI plugin, called by a container runtime"  # a string in shim/wirespeed-cni.c


def read_shim(path: Path) -> bytes:
    """Read the shim. Raises CniError if it cannot be read, or the file is not the shim."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"shim {path}: {error.strerror}") from error
    if _MARK not in data:
        raise CniError(
            Code.INVALID_CONFIG, f"shim {path}: expected the executable that is built of wirespeed-cni.c"
        )
    return data


def place(shim: bytes, folder: Path, replace: Iterable[str]) -> Iterator[Step]:
    """Return the steps that install the shim under its own names, and under those of the tools in `replace`.

    The executables of those tools are kept as <name>.replaced. Raises CniError(POLICY) if a file with one of our
    own names is not the shim.
    """
    for name in OWN_NAMES:
        path = folder / name
        if path.exists() and not is_shim(path):
            raise CniError(Code.POLICY, f"{path}: expected wirespeed's shim or no file; move this one away")
        yield from _place_one(shim, path)
    for name in names_of(replace):
        path = folder / name
        if path.exists() and not is_shim(path):
            what = f"put the shim at {path}, what is there is kept as {kept(path).name}"
            yield steps.replace(path, shim, 0o755, what)
        else:
            yield from _place_one(shim, path)


def _place_one(shim: bytes, path: Path) -> Iterator[Step]:
    # Copies, not links: an installer that overwrites one name in place would change the shim under all names.
    if path.is_symlink() or not path.exists() or path.read_bytes() != shim or path.stat().st_mode & 0o777 != 0o755:
        yield steps.write(path, shim, 0o755, f"put the shim at {path}")


def names_of(peers: Iterable[str]) -> list[str]:
    """Return the names that the shim takes from these tools."""
    return [name for peer in peers for name in PEERS[peer]]


def take_back(path: Path, shim: bytes) -> None:
    """Put the shim back at the path. The file that is there is kept, instead of the one kept before.

    A process that still writes that file continues to write the kept one. Raises CniError.
    """
    there = path.is_symlink() or path.exists()
    change = steps.replace if there else steps.write
    carry_out([change(path, shim, 0o755, f"put the shim at {path}")])


def take_away(folder: Path) -> Iterator[Step]:
    """Return the steps that remove the shim from all its names, and put back what was there before."""
    yield from give_back(folder, OWN_NAMES)
    yield from give_back(folder, names_of(PEERS))


def give_back(folder: Path, names: Iterable[str]) -> Iterator[Step]:
    """Return the steps that remove the shim from these names, and put back what was there before.

    If another program has replaced the shim, its file is newer than the kept one, and stays.
    """
    for name in names:
        path = folder / name
        ours, aside = path.exists() and is_shim(path), os.path.lexists(kept(path))
        if aside and (ours or not os.path.lexists(path)):
            yield steps.put_back(path, f"put {kept(path).name} back at {path}")
        elif aside:
            yield steps.remove(kept(path), f"remove {kept(path)}: what is at {path} is newer")
        elif ours:
            yield steps.remove(path, f"remove the shim at {path}")


def is_shim(path: Path) -> bool:
    """Whether the file is the shim, in any version; larger files are not read, as Go plugins are much larger."""
    return path.is_file() and path.stat().st_size <= _MOST and _MARK in path.read_bytes()


def await_calls(folder: Path, replace: Iterable[str], seconds: float) -> Step:
    """Wait until running calls of the replaced executables end: they still write state that is taken over next."""

    def do(_undo: Undo) -> None:
        until = time.monotonic() + seconds
        for name in names_of(replace):
            _await_processes(kept(folder / name), until)

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
                    raise CniError(Code.TRY_AGAIN_LATER, f"{executable}: process {pid} of it does not end")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, is a kernel thread, or cannot be inspected and so is none of a runtime's
        finally:
            os.close(process)
