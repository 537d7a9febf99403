"""The node agent: the long-lived process that serves CNI calls and the device plugin."""

from __future__ import annotations

from pathlib import Path


def main(config_path: Path | None, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; the exit status (see `wirespeed.agent.daemon`)."""
    from wirespeed.agent import daemon  # noqa: PLC0415 — nobody else who imports a part of this pays for it

    return daemon.main(config_path, log_level)
