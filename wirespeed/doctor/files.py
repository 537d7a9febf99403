"""The node's files as the checks read them: sysfs, procfs, and all others below the node's root directory."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wirespeed.errors import Error, Kind, as_error

_PIECE = 1 << 16


@dataclass(frozen=True)
class Files:
    """Paths are absolute, as on the node. A file that cannot be read raises Error(IO), unless a default is given.

    `root` is where the node's root directory is seen from here, `sys` and `proc` where its sysfs and procfs are.
    """

    root: str = "/"
    sys: str = "/sys"
    proc: str = "/proc"

    @classmethod
    def of_node(cls, sysfs: str = "/sys", *, init: int = 1) -> Files:
        """Return the files of the node, also from inside of a container that sees the node's processes.

        `init` is a process whose root directory is the node's.
        """
        root = f"/proc/{init}/root"
        try:
            inside = not os.path.samestat(os.stat("/"), os.stat(f"{root}/."))
        except OSError:  # only root may follow the link, and the agent's container runs as root
            inside = False
        return cls(root=root if inside else "/", sys=sysfs)

    @classmethod
    def below(cls, folder: Path) -> Files:
        """Return the files of a node whose whole tree is below a folder."""
        return cls(root=str(folder), sys=f"{folder}/sys", proc=f"{folder}/proc")

    def place(self, path: str) -> str:
        """Return where a file of the node is seen from here."""
        for top, mount in (("/sys", self.sys), ("/proc", self.proc)):
            if path == top or path.startswith(f"{top}/"):
                return mount + path[len(top) :]
        if path.startswith("/var/run/"):  # a link to /run: below another root, it would lead out of it
            path = path.removeprefix("/var")
        return f"{self.root.rstrip('/')}{path}"

    def remote(self, address: str) -> str:
        """Return the address of a database, "unix:<path>" or "tcp:<ip>:<port>", as it is reached from here."""
        kind, _, path = address.partition(":")
        return f"unix:{self.place(path)}" if kind == "unix" else address

    def data(self, path: str, *, last: int = 0) -> bytes:
        """Return the content of a file; with `last`, at most that many bytes from its end."""
        try:
            descriptor = os.open(self.place(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _unreadable(error, path) from error
        try:
            if last and (size := os.fstat(descriptor).st_size) > last:
                os.lseek(descriptor, size - last, os.SEEK_SET)
            return b"".join(_pieces(descriptor))
        except OSError as error:
            raise _unreadable(error, path) from error
        finally:
            os.close(descriptor)

    def text(self, path: str, default: str | None = None) -> str:
        """Return the text of a file, stripped; `default` only if there is no such file."""
        try:
            return self.data(path).decode(errors="replace").strip()
        except Error as error:
            if default is not None and isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return default
            raise

    def number(self, path: str, default: int | None = None) -> int:
        """Return the decimal number in a file; `default` only if there is no such file. Raises INVALID_DATA too."""
        return number_in(self.text(path, None if default is None else str(default)), path)

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder."""
        try:
            return sorted(os.listdir(self.place(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(error, path) from error

    def exists(self, path: str) -> bool:
        return os.path.exists(self.place(path))

    def link(self, path: str) -> str:
        """Return the last part of a symbolic link's target, "" if there is no link."""
        try:
            return os.readlink(self.place(path)).rpartition("/")[2]
        except OSError:
            return ""

    def check_connects(self, path: str) -> None:
        """Raise Error(IO) if nobody listens on a unix socket."""
        where = Path(self.place(path))
        try:
            folder = os.open(where.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(error, path) from error
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as one:
                one.settimeout(1.0)
                one.connect(f"/proc/self/fd/{folder}/{where.name}")  # the path itself may be too long for a socket
        except OSError as error:
            raise _unreadable(error, path) from error
        finally:
            os.close(folder)


def number_in(text: str, where: str, base: int = 10) -> int:
    """Return the number that a text is. Raises Error(INVALID_DATA) about the file `where`."""
    try:
        return int(text, base)
    except ValueError as error:
        raise Error(Kind.INVALID_DATA, where=where, expected="a number", got=text) from error


def _pieces(descriptor: int) -> Iterator[bytes]:
    """Yield what can be read without waiting: the log of the kernel (/dev/kmsg) has no end."""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(descriptor, _PIECE):
            yield piece


def _unreadable(error: OSError, path: str) -> Error:
    return as_error(error, path)
