"""Agents as forks of one process that has done an agent's imports, which are most of what its start costs.

The forked process runs the same command line as `python3 -m wirespeed`. Its own parent, the keeper, tells the tests
its process ID and how it ended, over a socket that the tests pass with the order.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from wirespeed.cli import main as cli
from wirespeed.kernel.netns import CLONE_NEWNET

IMPORTS = (
    "wirespeed.cli.agent",
    "wirespeed.agent.daemon",
    "wirespeed.agent.server",
    "wirespeed.agent.views",
    "wirespeed.kube.podresources",
    "wirespeed.plugins.meta.meta",
    "wirespeed.plugins.sriov.sriov",
    "wirespeed.plugins.vhost.vhost",
)


class Forked:
    """A forked process, with what the tests use of `subprocess.Popen`: it is another process's child."""

    def __init__(self, keeper: socket.socket, stderr: IO[str]) -> None:
        self._keeper = keeper
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid = int(self._read())

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status (negative: the signal that killed it). Raises TimeoutExpired."""
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                self.returncode = int(self._read())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("wirespeed agent", timeout or 0) from None
            self._keeper.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> bytes:
        text = self._keeper.recv(64)
        assert text, "the keeper of a forked process ended"
        return text


class Forks:
    """The process that forks, seen from the tests."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders

    def start(
        self, arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str], path: str, netns: str | None
    ) -> Forked:
        """Start `wirespeed ARGUMENTS` in the working directory `folder`, with the directory `path` for modules."""
        order = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environ": dict(environ),
            "path": path,
            "netns": netns,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [theirs.fileno(), writing])
        finally:
            theirs.close()
            os.close(writing)
        return Forked(ours, os.fdopen(reading))


@contextmanager
def forks(root: Path) -> Iterator[Forks]:
    """Run the process that forks, in the directory `root`. It ends when the tests do, whatever ends them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        yield Forks(ours)
    process.wait()


def _take_orders(orders: socket.socket) -> dict[str, Any] | None:
    """Fork for each order. Returns in each forked process with its order, and here, with None, at the end."""
    while True:
        text, (*descriptors,), _, _ = socket.recv_fds(orders, 1 << 20, 2)
        if not text:
            return None
        if os.fork() == 0:
            orders.close()
            keeper, stderr = descriptors
            if _keep(keeper, stderr):
                return json.loads(text)  # type: ignore[no-any-return]
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(keeper: int, stderr: int) -> bool:
    """Return True in a forked process. Its parent, the keeper, ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.dup2(stderr, 2)
        os.closerange(3, max(keeper, stderr) + 1)
        return True
    os.close(stderr)
    with socket.socket(fileno=keeper) as answer:
        answer.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with suppress(BrokenPipeError):  # the tests have ended
            answer.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(order: dict[str, Any]) -> None:
    """Do what the order says, as the interpreter does at its start."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.path.insert(1, order["path"])
    sys.argv[:] = ["wirespeed", *order["arguments"]]
    if order["netns"]:
        with open(order["netns"]) as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), order["netns"])
    cli.main()


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        order = _take_orders(orders)
    if order is not None:
        _run(order)


if __name__ == "__main__":
    main()
