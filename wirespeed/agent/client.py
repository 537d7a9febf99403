"""Calling the agent on its socket, as the shim does."""

from __future__ import annotations

import socket

from wirespeed.agent import frame
from wirespeed.cni.errors import CniError, Code


def ask(path: str, call: frame.Call, *, patience: float) -> tuple[int, bytes]:
    """Make a call; return the exit status and standard output of its answer.

    `patience` is the timeout to connect, and for each part of the answer. Raises CniError(UNAVAILABLE).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        agent.settimeout(patience)
        try:
            agent.connect(path)
            agent.sendall(frame.write_call(call))
            with agent.makefile("rb") as answer:
                return frame.read_answer(answer)
        except (OSError, EOFError) as error:
            raise CniError(Code.UNAVAILABLE, f"agent at {path}: {error}") from error
