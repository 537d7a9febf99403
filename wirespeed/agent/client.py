"""Calling the agent on its socket, as the shim does."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from wirespeed.agent import frame
from wirespeed.cni.errors import PluginError
from wirespeed.errors import Error, Kind, as_error
from wirespeed.node import load_config

_CHECK_TIMEOUT = 3.0  # seconds to connect, and for each part of the answer


def call_agent(path: str, call: frame.Call, *, timeout: float) -> tuple[int, bytes]:
    """Make a call; return the exit status and standard output of its answer.

    `timeout` is the timeout to connect, and for each part of the answer. Raises Error(UNAVAILABLE).
    """
    where = f"agent at {path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        agent.settimeout(timeout)
        try:
            agent.connect(path)
            agent.sendall(frame.write_call(call))
            with agent.makefile("rb") as answer:
                return frame.read_answer(answer)
        except OSError as error:
            raise as_error(error, where).of_kind(Kind.UNAVAILABLE) from error
        except EOFError as error:
            raise Error(Kind.UNAVAILABLE, str(error), where=where) from error


def ask(path: str, call: frame.Call, *, timeout: float) -> bytes:
    """Make a call as `call_agent`; return its standard output.

    Raises PluginError with the agent's error, Error(UNAVAILABLE), or Error(TRY_AGAIN) if the agent is ending.
    """
    status, stdout = call_agent(path, call, timeout=timeout)
    if status == frame.TRY_NEXT_AGENT:
        raise Error(Kind.TRY_AGAIN, "the agent is ending: try again")
    if status:
        refused: dict[str, Any] = json.loads(stdout)
        raise PluginError(refused["code"], refused["msg"], refused.get("details", ""))
    return stdout


def check(config_path: Path | None) -> None:
    """Check that an agent serves this node, by a VERSION call: a worker thread answers it, and it changes nothing.

    Raises Error: UNAVAILABLE if it does not answer as expected, or what `load_config` raises.
    """
    path = load_config(config_path).socket
    status, _ = call_agent(path, frame.Call("meta", {"CNI_COMMAND": "VERSION"}, b"{}"), timeout=_CHECK_TIMEOUT)
    if status:
        raise Error(Kind.UNAVAILABLE, f"answered with status {status}", where=f"agent at {path}")
