"""Network namespaces: their identity, and doing something inside one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from wirespeed.cni.errors import CniError, Code

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h


@dataclass(frozen=True)
class NetNs:
    """An open network namespace: `fd` is valid inside the `with` that gave it; `dev` and `ino` identify it."""

    fd: int
    path: str
    dev: int
    ino: int


@contextmanager
def opened(path: str) -> Iterator[NetNs]:
    """Open the network namespace at `path`.

    Raises CniError(UNKNOWN_CONTAINER) where there is none, for then the runtime need not call DEL
    (specification, "Error").
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CniError(Code.UNKNOWN_CONTAINER, f"network namespace {path}: {error.strerror}") from error
    try:
        if not _is_netns(fd):
            raise CniError(Code.UNKNOWN_CONTAINER, f"network namespace {path}: not a network namespace")
        stat = os.fstat(fd)
        yield NetNs(fd, path, stat.st_dev, stat.st_ino)
    finally:
        os.close(fd)


@contextmanager
def reopened(path: str, dev: int, ino: int) -> Iterator[NetNs | None]:
    """The namespace that `path` was when its identity was noted, or None when it is gone.

    A path may meanwhile name another namespace. One whose path is gone may live on in a process: that is
    found by the identity, in /proc.
    """
    for candidate in (path, *_processes()):
        try:
            stat = os.stat(candidate)
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) == (dev, ino):
            try:
                fd = os.open(candidate, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                yield NetNs(fd, candidate, dev, ino)
            finally:
                os.close(fd)
            return
    yield None


def alive(path: str, dev: int, ino: int) -> bool:
    """Whether the namespace whose identity was noted is still there."""
    with reopened(path, dev, ino) as found:
        return found is not None


def _processes() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield f"/proc/{name}/ns/net"


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def inside(fd: int, function: Callable[[], T]) -> T:
    """Call `function` with this thread in the namespace `fd`; raises what it raises, and OSError.

    Sockets that it opens stay in that namespace and may be used from anywhere after.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            return function()
        finally:
            try:
                _setns(home)
            except OSError:
                os.abort()  # a thread that is lost in a pod's namespace must serve nobody else
    finally:
        os.close(home)


def _load_setns() -> Callable[[int], None]:
    native: Callable[[int, int], None] | None = getattr(os, "setns", None)
    if native is not None:
        return lambda fd: native(fd, CLONE_NEWNET)
    import cffi  # noqa: PLC0415 — Python 3.11 has no os.setns

    ffi = cffi.FFI()
    ffi.cdef("int setns(int fd, int nstype);")
    libc = ffi.dlopen(None)

    def setns(fd: int) -> None:
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    return setns


_loaded: Callable[[int], None] | None = None


def _setns(fd: int) -> None:
    global _loaded  # noqa: PLW0603 — loaded once, when first needed
    if _loaded is None:
        _loaded = _load_setns()
    _loaded(fd)
