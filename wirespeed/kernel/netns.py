"""Network namespaces: their identity, and calling functions inside one."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple, TypeVar

from wirespeed import structs
from wirespeed.errors import Error, Kind, as_error

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, since Linux 5.14


@structs.prepared
@dataclass(frozen=True)
class Identity:
    """Identifies a namespace independently of its path, which may name another namespace later.

    `dev` and `ino` are those of its file. The kernel reuses the inode number of a deleted namespace for a new
    one; it never reuses the `cookie` (0: the kernel has no cookies).
    """

    dev: int
    ino: int
    cookie: int


class NetNs(NamedTuple):
    """An open network namespace; `fd` is valid inside the `with` block that opened it."""

    fd: int
    path: str
    identity: Identity


@contextmanager
def opened(path: str) -> Iterator[NetNs]:
    """Open the network namespace at `path`.

    Raises Error(NOT_ATTACHED) if there is none: its CNI error code means that the runtime need not call DEL
    (specification, "Error").
    """
    where = f"network namespace {path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise as_error(error, where).of_kind(Kind.NOT_ATTACHED) from error
    try:
        if not _is_netns(fd):
            raise Error(Kind.NOT_ATTACHED, "it is not a network namespace", where=where)
        yield NetNs(fd, path, _identity(fd))
    finally:
        os.close(fd)


@contextmanager
def reopened(path: str, identity: Identity) -> Iterator[NetNs | None]:
    """Open the namespace that `path` named when `identity` was recorded; None if that namespace is gone.

    The path may name another namespace by now. A namespace without its path may still be held by a process, so
    /proc is searched for the identity.
    """
    for candidate in chain((path,), _processes()):  # /proc is read only if the path no longer matches
        try:
            stat = os.stat(candidate)
            if (stat.st_dev, stat.st_ino) != (identity.dev, identity.ino):
                continue
            fd = os.open(candidate, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _identity(fd) == identity:
                yield NetNs(fd, candidate, identity)
                return
        finally:
            os.close(fd)
    yield None


@contextmanager
def current() -> Iterator[int]:
    """Open the network namespace that this thread is in."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def alive(path: str, identity: Identity) -> bool:
    """Whether the namespace with the recorded identity still exists."""
    with reopened(path, identity) as found:
        return found is not None


def _identity(fd: int) -> Identity:
    stat = os.fstat(fd)
    return Identity(stat.st_dev, stat.st_ino, inside(fd, _cookie))


def _cookie() -> int:
    """Return the cookie of the namespace that this thread is in."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        try:
            return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            return 0


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
    """Call `function` with this thread in the namespace `fd`. Raises what it raises, and OSError.

    Sockets that it opens stay in that namespace, whatever thread uses them later.
    """
    with current() as home:
        setns = _setns()
        setns(fd)
        try:
            return function()
        finally:
            try:
                setns(home)
            except OSError:
                os.abort()  # a thread stuck in a pod's namespace must not serve other requests


@cache
def _setns() -> Callable[[int], None]:
    """Return setns(2) for network namespaces."""
    native: Callable[[int, int], None] | None = getattr(os, "setns", None)
    if native is not None:
        return lambda fd: native(fd, CLONE_NEWNET)
    from wirespeed.kernel.libc import ffi  # noqa: PLC0415 — Python 3.11 has no os.setns

    libc = ffi.dlopen(None)

    def setns(fd: int) -> None:
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    return setns
