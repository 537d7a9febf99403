"""`--watch` of the commands that show the node: show it again until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_CLEAR = "\x1b[H\x1b[J"  # the cursor to the top, and erase what is below


def watch_option(command: Command) -> Command:
    text = "Show it again every 2 seconds until Ctrl-C."
    return click.option("--watch", is_flag=True, help=text)(command)


def repeat(show: Callable[[], str], *, every: float = 2.0, as_json: bool = False) -> None:
    """Print what `show` returns, every `every` seconds until Ctrl-C.

    On a terminal it replaces what was shown before, elsewhere an empty line is between two; `as_json`: a document
    is one line.
    """
    redraw = sys.stdout.isatty() and not as_json
    first = True
    try:
        while True:
            begun = time.monotonic()
            text = show()
            between = "" if first or as_json or redraw else "\n"
            click.echo(f"{_CLEAR if redraw else between}{text}")
            first = False
            time.sleep(max(0.0, begun + every - time.monotonic()))
    except KeyboardInterrupt:
        if redraw:
            click.echo()
