"""Check that an agent serves this node: a VERSION call, which reaches a worker thread and changes nothing."""

from __future__ import annotations

from pathlib import Path

from wirespeed.agent import client, frame
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import load_config

_PATIENCE = 3.0  # seconds to connect, and for each part of the answer


def check(config_path: Path | None) -> None:
    """Call the agent that has this configuration.

    Raises CniError: UNAVAILABLE if it does not answer as expected, or what `load_config` raises.
    """
    path = load_config(config_path).socket
    status, _ = client.ask(path, frame.Call("meta", {"CNI_COMMAND": "VERSION"}, b"{}"), patience=_PATIENCE)
    if status:
        raise CniError(Code.UNAVAILABLE, f"agent at {path}: answered with status {status}")
