"""`wirespeed agent`: the node agent."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file.  [default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml if it exists]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The lowest level to log. The log goes to standard error.",
)
@click.option("--check", is_flag=True, help="Check that the running agent responds, then exit.")
@click.pass_context
def agent(ctx: click.Context, *, config: Path | None, log_level: str, check: bool) -> None:
    """Run the node agent: CNI calls and the device plugin."""
    if check:
        _check(config)
        return
    from wirespeed.agent import main  # noqa: PLC0415 — see wirespeed.cli.main

    ctx.exit(main(config, log_level))


def _check(config: Path | None) -> None:
    from wirespeed.agent.check import check  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.cni.errors import CniError  # noqa: PLC0415

    try:
        check(config)
    except CniError as error:
        raise click.ClickException(error.msg) from error
