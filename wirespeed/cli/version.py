"""`wirespeed version`."""

from __future__ import annotations

import click


@click.command()
def version() -> None:
    """Show the version and the supported CNI versions."""
    from importlib import metadata  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cni.versions import SUPPORTED  # noqa: PLC0415

    click.echo(f"wirespeed {metadata.version('wirespeed')}, CNI {', '.join(SUPPORTED)}")
