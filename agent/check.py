"""Whether an agent serves this node: a call of VERSION, which goes all the way to a worker and touches nothing."""

from __future__ import annotations

import socket
from pathlib import Path

from agent import frame
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import load_config

_PATIENCE = 3.0  # seconds to connect, and for each part of the answer


def check(config_path: Path | None) -> None:
    """Ask the agent of that configuration.

    Raises CniError: UNAVAILABLE when it does not answer as it should, or what `load_config` raises.
    """
    path = load_config(config_path).socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        agent.settimeout(_PATIENCE)
        try:
            agent.connect(path)
            agent.sendall(frame.write_call(frame.Call("meta", {"CNI_COMMAND": "VERSION"}, b"{}")))
            with agent.makefile("rb") as answer:
                status, _ = frame.read_answer(answer)
        except (OSError, EOFError) as error:
            raise CniError(Code.UNAVAILABLE, f"agent at {path}: {error}") from error
    if status:
        raise CniError(Code.UNAVAILABLE, f"agent at {path}: answered with status {status}")
