"""`wirespeed top`: live rates of the node's VFs and vhost-user ports, with the pods that have them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options
from wirespeed.cli.durations import Duration

if TYPE_CHECKING:
    from wirespeed.node import Node
    from wirespeed.observe.rates import Interval

SORT_KEYS = (
    "port",
    "rx-packets",
    "rx-bits",
    "rx-drops",
    "rx-errors",
    "tx-packets",
    "tx-bits",
    "tx-drops",
    "tx-errors",
    "pod",
)


@click.command(epilog=options.examples("wirespeed top --sort rx-bits", "wirespeed top --once --interval 5s --json"))
@options.config("The agent's configuration file, which says where the journal and the switches are")
@click.option("--once", is_flag=True, help="Print the rates of one interval, then exit; the default in a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each interval.")
@click.option(
    "--interval",
    type=Duration(0.1, 3600),
    default="1s",
    show_default=True,
    help="How often rates are computed, up to 1h.",
)
@click.option(
    "--sort", type=click.Choice(SORT_KEYS), default="port", show_default=True, help="The column to sort by."
)
def top(*, config: Path | None, once: bool, as_json: bool, interval: float, sort: str) -> None:
    """Show the rates of VFs and vhost-user ports, and their pods.

    Packets, bits, drops and errors per second, as the pod receives (RX) and sends (TX) them. On a terminal, the
    keys are: s or the angle brackets to sort by another column, r to reverse the order, space to pause, arrows to
    scroll, q to quit. No agent has to run.
    """
    import sys  # noqa: PLC0415 — see wirespeed.cli.main
    from contextlib import closing  # noqa: PLC0415

    from wirespeed.errors import os_errors  # noqa: PLC0415
    from wirespeed.node import Node, load_config  # noqa: PLC0415
    from wirespeed.observe import rates, ratetable  # noqa: PLC0415

    with closing(Node(load_config(config), once=True)) as node, os_errors():
        if as_json:
            _print_json(node, interval, once=once)
        elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            click.echo("\n".join(ratetable.table(next(_intervals(node, interval)), sort)))
        else:
            from wirespeed.cli import livetop  # noqa: PLC0415

            livetop.run(lambda: rates.sample(node), node=node.name, every=interval, sort=sort)


def _print_json(node: Node, every: float, *, once: bool) -> None:
    with suppress(KeyboardInterrupt):  # its end, unless it is to show one interval
        for interval in _intervals(node, every):
            click.echo(options.as_json(interval, indent=False))
            if once:
                return


def _intervals(node: Node, every: float) -> Iterator[Interval]:
    from wirespeed.observe import rates  # noqa: PLC0415 — see wirespeed.cli.main

    before = rates.sample(node)
    while True:
        time.sleep(max(0.0, before.at + every - time.monotonic()))
        now = rates.sample(node)
        yield rates.between(before, now)
        before = now
