"""The `wirespeed` command. Each subcommand's module is imported only when it is needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

# The subcommands, as "module:function". At its top, such a module imports only click and, of wirespeed.cli,
# completion, durations, options and watch; what the command needs is imported inside it. A plugin call therefore
# loads only its own plugin, and --help none.
COMMANDS = {
    "agent": "wirespeed.cli.agent:agent",
    "attach": "wirespeed.cli.hotplug:attach",
    "check": "wirespeed.cli.check:check",
    "cni": "wirespeed.cli.cni:cni",
    "completion": "wirespeed.cli.completion:completion",
    "detach": "wirespeed.cli.hotplug:detach",
    "deviceplugin": "wirespeed.cli.deviceplugin:deviceplugin",
    "doctor": "wirespeed.cli.doctor:doctor",
    "eal": "wirespeed.cli.eal:eal",
    "install": "wirespeed.cli.install:install",
    "measure": "wirespeed.cli.measure:measure",
    "play": "wirespeed.cli.play:play",
    "ready": "wirespeed.cli.eal:ready",
    "status": "wirespeed.cli.observe:status",
    "top": "wirespeed.cli.top:top",
    "topology": "wirespeed.cli.topology:topology",
    "uninstall": "wirespeed.cli.install:uninstall",
    "uninstall-nodes": "wirespeed.cli.install:uninstall_nodes",
    "version": "wirespeed.cli.version:version",
    "vf": "wirespeed.cli.vf:vf",
    "why": "wirespeed.cli.observe:why",
}


class Program(click.Group):
    """A program of several commands. It reports their Errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from wirespeed.errors import Error  # noqa: PLC0415 — loaded already, if it is one

            if isinstance(error, Error):
                raise click.ClickException(error.msg) from error  # exit status 1
            raise


class LazyGroup(Program):
    """A program whose commands are imported when they are called or listed by --help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 — click's signature
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # click knows only the commands that are loaded
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module, _, function = COMMANDS.get(cmd_name, "").partition(":")
        if not module or find_spec(module) is None:
            return None
        command: click.Command = getattr(import_module(module), function)
        return command


def show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from wirespeed.cli.version import show  # noqa: PLC0415 — as COMMANDS

        show()
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and the supported CNI versions, then exit.",
)
def main() -> None:
    """Line-rate interfaces for Kubernetes pods.

    The exit status is 0 for success, 1 for an error, 2 for a wrong command line.
    """
