"""`wirespeed eal` and `wirespeed ready`: for a DPDK application, run in its pod."""

from __future__ import annotations

import click

from wirespeed.cli import options


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
    epilog=options.examples(
        "dpdk-testpmd $(wirespeed eal) -- --forward-mode=io --auto-start", "wirespeed eal --json"
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def eal(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Print the DPDK EAL arguments for this pod's interfaces."""
    from wirespeed.eal.command import main  # noqa: PLC0415 — see wirespeed.cli.main

    ctx.exit(main(arguments))


@click.command(epilog=options.examples('wirespeed ready && echo "all ports are up"'))
@click.pass_context
def ready(ctx: click.Context) -> None:
    """Check that the DPDK application's ports are up.

    For a readiness probe of this container. The exit status is 0 if all ports are up; else it is 1, and the reason
    is on standard error.
    """
    from wirespeed.eal.inpod import ready as run  # noqa: PLC0415 — see wirespeed.cli.main

    ctx.exit(run())
