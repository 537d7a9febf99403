"""`wirespeed eal` and `wirespeed ready`: for a DPDK application, in the pod that this runs in."""

from __future__ import annotations

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def eal(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Print the arguments of DPDK's EAL for this pod's interfaces."""
    from wirespeed.eal.command import main  # noqa: PLC0415 — see wirespeed.cli.main

    ctx.exit(main(arguments))


@click.command()
@click.pass_context
def ready(ctx: click.Context) -> None:
    """Say whether this container's DPDK application has its ports up.

    For a readiness probe, by the exit status: 0 if all ports are up, else 1 and the reason on standard error.
    """
    from wirespeed.eal.inpod import ready as run  # noqa: PLC0415 — see wirespeed.cli.main

    ctx.exit(run())
