"""`wirespeed version`."""

from __future__ import annotations

import click

from wirespeed import __version__


@click.command()
def version() -> None:
    """Show the version and the supported CNI versions."""
    from wirespeed.cni.versions import SUPPORTED  # noqa: PLC0415 — see wirespeed.cli.main

    click.echo(f"wirespeed {__version__}, CNI {', '.join(SUPPORTED)}")
