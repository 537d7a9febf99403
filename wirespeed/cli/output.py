"""Tables on standard output: as wide as the terminal, or with whole lines in a pipe or a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

_UNLIMITED = 10_000  # characters of a line


def show_table(table: Table) -> None:
    """Print the table. Only a terminal gets colours, and lines that are no longer than its width."""
    from rich.console import Console  # noqa: PLC0415 — see wirespeed.cli.main

    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED)
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        click.echo(line.rstrip())
