"""`wirespeed agent`: the node agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options
from wirespeed.cli.durations import Duration, text_of

if TYPE_CHECKING:
    from wirespeed.agent.loglevel import ModuleLevel


@click.group(
    invoke_without_command=True,
    epilog=options.examples(
        "wirespeed agent",
        "wirespeed agent --config agent.yaml --log-level debug",
        'wirespeed agent --check && echo "the agent responds"',
    ),
)
@options.config("The configuration file")
@options.log_level()
@click.option("--check", is_flag=True, help="Check that the running agent responds, then exit.")
@click.pass_context
def agent(ctx: click.Context, *, config: Path | None, log_level: str, check: bool) -> None:
    """Run the node agent: CNI calls and the device plugin."""
    if ctx.invoked_subcommand is not None:
        return
    if check:
        from wirespeed.agent import client  # noqa: PLC0415 — see wirespeed.cli.main

        client.check(config)
    else:
        from wirespeed.agent.daemon import main  # noqa: PLC0415 — see wirespeed.cli.main

        ctx.exit(main(config, log_level))


@agent.command(
    "log-level",
    epilog=options.examples(
        "wirespeed agent log-level debug --module wirespeed.kube --for 10m", "wirespeed agent log-level default"
    ),
)
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error", "default"]))
@click.option("--module", default="", help="Only this Python module and those in it, such as wirespeed.kube.")
@click.option(
    "--for",
    "seconds",
    type=Duration(highest=7 * 24 * 3600),
    help="How long, such as 90s, 10m or 1h; then the level from before returns.  [default: until the agent ends]",
)
@options.config()
@click.pass_context
def log_level_(
    ctx: click.Context, *, level: str | None, module: str, seconds: float | None, config: Path | None
) -> None:
    """Change the log level of the running agent, or show it.

    Prints the level before and the new one. A module without a level of its own has that of the module around it,
    and at last that of all modules. With `default`, all modules log again from the level of the agent's start, and
    --module has no level of its own anymore. Without LEVEL, all levels that are set are printed.
    """
    from typing import cast  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.agent import loglevel  # noqa: PLC0415
    from wirespeed.node import load_config  # noqa: PLC0415

    if level is None and seconds:
        raise click.UsageError("--for needs a LEVEL")
    assert ctx.parent is not None
    change = loglevel.Change(cast(loglevel.Level | None, level), module, seconds or 0.0)
    answer = loglevel.call_agent(load_config(config or ctx.parent.params["config"]), change)
    if level is None and module:
        click.echo(f"{module}: {answer.new}")
    elif level is None:
        for each in answer.given:
            click.echo(_line(each))
    else:
        until = f" for {text_of(seconds)}" if seconds else ""
        click.echo(f"{module or 'all modules'}: {answer.old} -> {answer.new}{until}")


def _line(given: ModuleLevel) -> str:
    then = f", then {given.then}" if given.then else ""
    return f"{given.module or 'all modules'}: {given.level}{then}"
