"""`wirespeed topology`: which pod has which VF, scalable function or vhost-user port of the node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options
from wirespeed.cli.watch import repeat, watch_option

if TYPE_CHECKING:
    from wirespeed.node import Node
    from wirespeed.observe.layout import Topology


@click.command(epilog=options.examples("wirespeed topology", "wirespeed topology --svg node.svg"))
@options.config("The agent's configuration file, which says where the journal, the pools and the switches are")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, one document a line.")
@click.option(
    "--svg",
    "drawing",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a drawing to FILE (- for standard output).",
)
@watch_option
def topology(*, config: Path | None, as_json: bool, drawing: Path | None, watch: bool) -> None:
    """Show which pod has which device of this node.

    PFs with their VFs and scalable functions, by NUMA node, and the bridges with the vhost-user and memif ports of
    pods. No agent has to run.
    """
    from contextlib import closing  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed import extras  # noqa: PLC0415
    from wirespeed.errors import os_errors  # noqa: PLC0415
    from wirespeed.node import Node, load_config  # noqa: PLC0415

    if drawing and (as_json or watch):
        raise click.UsageError("--svg cannot be combined with --json or --watch")
    extras.need("provision", "wirespeed topology")
    with closing(Node(load_config(config), once=True)) as node:

        def show() -> str:
            with os_errors():
                return _text(node, as_json=as_json, indent=not watch)

        if drawing:
            with os_errors():
                _draw(node, drawing)
        elif watch:
            repeat(show, as_json=as_json)
        else:
            click.echo(show())


def _text(node: Node, *, as_json: bool, indent: bool) -> str:

    from wirespeed.observe import topology  # noqa: PLC0415

    found = topology.topology(node)
    if as_json:
        return options.as_json(found, indent=indent)
    return text(found)


def text(found: Topology) -> str:
    """Return a node's topology as text, for the width and the characters of standard output."""
    import shutil  # noqa: PLC0415 — see wirespeed.cli.main
    import sys  # noqa: PLC0415

    from wirespeed.observe import tree  # noqa: PLC0415

    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return "\n".join(tree.lines(found, width=shutil.get_terminal_size((80, 24)).columns, utf8=utf8))


def _draw(node: Node, file: Path) -> None:
    from wirespeed.observe import drawing, topology  # noqa: PLC0415 — see wirespeed.cli.main

    document = drawing.svg(topology.topology(node))
    if str(file) == "-":
        click.echo(document, nl=False)
    else:
        file.write_text(document, encoding="utf-8")
