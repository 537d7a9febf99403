"""The node agent: the long-lived process that serves CNI calls and the device plugin."""

from __future__ import annotations

from pathlib import Path


def main(config_path: Path | None, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status (see `wirespeed.agent.daemon`)."""
    from wirespeed.agent import daemon  # noqa: PLC0415 — slow, and not needed to import a part of this package

    return daemon.main(config_path, log_level)
