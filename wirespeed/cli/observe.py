"""`wirespeed status` and `wirespeed why`: the state of the node, and what happened to a pod."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from wirespeed.cli import completion, options
from wirespeed.cli.watch import repeat, watch_option

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, one document a line.")


@click.command(
    epilog=options.examples(
        "wirespeed status --watch", "wirespeed status --json | jq '.pools[] | select(.free == 0)'"
    )
)
@options.config()
@_JSON
@watch_option
def status(*, config: Path | None, as_json: bool, watch: bool) -> None:
    """Show the state of this node.

    The agent and its running calls; the pools with their allocated, free and unhealthy devices; the pods'
    interfaces and what is wrong with them; the last errors. Without an agent, it shows what the journal has.
    Times are in UTC.
    """
    from wirespeed.observe.lines import status_lines  # noqa: PLC0415 — see wirespeed.cli.main

    _show(config, "status", {}, status_lines, as_json=as_json, watch=watch)


@click.command(
    epilog=options.examples("wirespeed why shop/firewall", "wirespeed why shop/firewall --json | jq .failure")
)
@click.argument("pod", shell_complete=completion.pods)
@options.config()
@_JSON
@watch_option
def why(*, pod: str, config: Path | None, as_json: bool, watch: bool) -> None:
    """Show what happened to POD on this node: why it is stuck, or how it was attached.

    POD is [<namespace>/]<name>. Shows the error and what to do about it, the networks that the pod requests, and
    each step of its last call, with the time when it began and how long it took. Times are in UTC.
    """
    from wirespeed.observe.lines import why_lines  # noqa: PLC0415 — see wirespeed.cli.main

    _show(config, "why", {"pod": pod}, why_lines, as_json=as_json, watch=watch)


def _show(
    config: Path | None,
    view: str,
    arguments: dict[str, str],
    lines: Callable[[Any], Iterable[str]],
    *,
    as_json: bool,
    watch: bool,
) -> None:
    from wirespeed.agent import views  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.node import Node, load_config  # noqa: PLC0415

    def text() -> str:
        found = views.ask(Node(load_config(config), once=True), view, **arguments)
        if not as_json:
            return "\n".join(lines(found))
        return options.as_json(found, indent=not watch)

    if watch:
        repeat(text, as_json=as_json)
    else:
        click.echo(text())
