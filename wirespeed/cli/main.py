"""The `wirespeed` command. Each subcommand's module is imported only when it is needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

# The subcommands, as "module:function". At its top, such a module imports only click; what the command needs is
# imported inside it. A plugin call therefore loads only its own plugin, and --help none.
COMMANDS = {
    "agent": "wirespeed.cli.agent:agent",
    "attach": "wirespeed.cli.hotplug:attach",
    "check": "wirespeed.cli.check:check",
    "cni": "wirespeed.cli.cni:cni",
    "detach": "wirespeed.cli.hotplug:detach",
    "deviceplugin": "wirespeed.cli.deviceplugin:deviceplugin",
    "eal": "wirespeed.cli.eal:eal",
    "install": "wirespeed.cli.install:install",
    "play": "wirespeed.cli.play:play",
    "ready": "wirespeed.cli.eal:ready",
    "uninstall": "wirespeed.cli.install:uninstall",
    "uninstall-nodes": "wirespeed.cli.install:uninstall_nodes",
    "version": "wirespeed.cli.version:version",
    "vf": "wirespeed.cli.vf:vf",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or listed by --help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 — click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module, _, function = COMMANDS.get(cmd_name, "").partition(":")
        if not module or find_spec(module) is None:
            return None
        command: click.Command = getattr(import_module(module), function)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Line-rate interfaces for Kubernetes pods."""
