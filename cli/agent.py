"""`wirespeed agent`: the node agent."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file.  [default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml where there is one]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least level that is logged, on standard error.",
)
@click.pass_context
def agent(ctx: click.Context, config: Path | None, log_level: str) -> None:
    """Serve this node's CNI calls and its device plugin."""
    from agent import main  # noqa: PLC0415 — see cli.main

    ctx.exit(main(config, log_level))
