"""Starts programs that run beside this process: QEMU, a control plane, nodes; and this process in namespaces."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import IO

_INSIDE = "WIRESPEED_NAMESPACE_PID"


def spawn(
    command: Iterable[str],
    output: int | IO[bytes],
    *,
    environment: Mapping[str, str] | None = None,
    pass_fds: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program; the kernel kills it when the thread that started it ends, no matter how.

    It has no input, writes to `output` only, and does not get the signals of this process's terminal.
    """
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def enter_namespaces(module: str, *options: str) -> None:
    """Restart `python3 -m MODULE` with the same arguments in namespaces of unshare(1); return if it runs there."""
    # exec keeps the PID, so the variable identifies this process and not its children.
    if os.environ.get(_INSIDE) != str(os.getpid()):
        os.environ[_INSIDE] = str(os.getpid())
        os.execvp("unshare", ["unshare", *options, "--", sys.executable, "-m", module, *sys.argv[1:]])
