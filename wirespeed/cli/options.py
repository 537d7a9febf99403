"""Options that several commands have, and the forms of their help and of their output in JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

DRY_RUN_JSON = click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON.")


def config(what: str = "The agent's configuration file") -> Callable[[Command], Command]:
    text = f"{what}.  [default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml if it exists]"
    return click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help=text)


def log_level(
    default: str = "info", text: str = "The lowest level to log. The log goes to standard error."
) -> Callable[[Command], Command]:
    levels = click.Choice(["debug", "info", "warning", "error"])
    return click.option("--log-level", type=levels, default=default, show_default=True, help=text)


def check_dry_run_json(*, as_json: bool, dry_run: bool) -> None:
    """Refuse DRY_RUN_JSON without --dry-run: the command would do what it does, and print no JSON."""
    if as_json and not dry_run:
        raise click.UsageError("--json needs --dry-run")


def examples(*lines: str) -> str:
    """Return the epilog of a command: command lines, which --help, the man page and docs/commands.md show."""
    return "\n".join(["\b", EXAMPLES, *(f"  {line}" for line in lines)])


EXAMPLES = "Examples:"  # the first line of an epilog


def as_json(value: object, *, indent: bool = True) -> str:
    """Return a Struct, or a list of them, as JSON: indented, or as one line."""
    import msgspec  # noqa: PLC0415 — see wirespeed.cli.main

    document = msgspec.json.encode(value)
    return (msgspec.json.format(document, indent=2) if indent else document).decode()
