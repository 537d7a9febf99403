"""The shim under its names in the runtime's folder of plugins, and the peers' plugins that make room for it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from wirespeed.agent.install import steps
from wirespeed.agent.install.steps import Step, Undo, kept
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import ALIASES

OWN_NAMES = sorted(name for name in ALIASES if name.startswith("wirespeed"))
# By what is replaced: the names that the shim takes.
PEERS = {"multus": ("multus", "multus-shim"), "sriov-cni": ("sriov",), "userspace-cni": ("userspace",)}

_MOST = 8 << 20  # bytes of a shim
_MARK = b"wirespeed: a CNI plugin, called by a container runtime"  # a text of shim/wirespeed-cni.c


def read_shim(path: Path) -> bytes:
    """The shim. Raises CniError that says what is at the path instead."""
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
    """The steps that put the shim under its names, and under those of the peers in `replace`.

    A peer's executable is kept as <name>.replaced. Raises CniError(POLICY) for a file of our name that is not
    the shim.
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
    # No link to one file: a peer's installer that copies over its name would write into all of them.
    if path.is_symlink() or not path.exists() or path.read_bytes() != shim or path.stat().st_mode & 0o777 != 0o755:
        yield steps.write(path, shim, 0o755, f"put the shim at {path}")


def names_of(peers: Iterable[str]) -> list[str]:
    """The names that the shim takes where it replaces them."""
    return [name for peer in peers for name in PEERS[peer]]


def take_back(path: Path, shim: bytes) -> None:
    """Put the shim at the path once more. What somebody put there is kept, in the place of what was kept before.

    Who still writes it goes on writing what is kept. Raises OSError.
    """
    there = path.is_symlink() or path.exists()
    (steps.replace if there else steps.write)(path, shim, 0o755, "").do()


def take_away(folder: Path) -> Iterator[Step]:
    """The steps that remove the shim from all its names and put back what was there before."""
    yield from give_back(folder, OWN_NAMES)
    yield from give_back(folder, names_of(PEERS))


def give_back(folder: Path, names: Iterable[str]) -> Iterator[Step]:
    """The steps that remove the shim from these names and put back what was there before.

    Where somebody has put another file in the shim's place, that is the newest, and stays.
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
    """Whether it is the shim, perhaps of another version; a peer's has up to a hundred times its size."""
    return path.is_file() and path.stat().st_size <= _MOST and _MARK in path.read_bytes()


def await_calls(folder: Path, replace: Iterable[str], seconds: float) -> Step:
    """Wait for the calls of replaced executables that run: they still write what is taken over next."""

    def do() -> Undo:
        until = time.monotonic() + seconds
        for name in names_of(replace):
            _await_processes(kept(folder / name), until)
        return lambda: None

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
            # Read with the process held: the number is still its own.
            if os.path.samestat(os.stat(f"/proc/{pid}/exe"), wanted):
                left = max(0.0, until - time.monotonic())
                if not select.select([process], [], [], left)[0]:
                    raise CniError(Code.TRY_AGAIN_LATER, f"{executable}: process {pid} of it does not end")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, is one of the kernel's, or runs outside of all that a runtime here could start
        finally:
            os.close(process)
