"""The `wirespeed` command: which subcommands there are, each loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

# The subcommands: where each is, as "module:function". Such a module imports click alone at its top, and what
# its command needs inside it: a plugin call pays for its plugin, and --help for none.
COMMANDS = {
    "agent": "cli.agent:agent",
    "attach": "cli.hotplug:attach",
    "check": "cli.check:check",
    "cni": "cli.cni:cni",
    "detach": "cli.hotplug:detach",
    "deviceplugin": "cli.deviceplugin:deviceplugin",
    "eal": "cli.eal:eal",
    "install": "cli.install:install",
    "play": "cli.play:play",
    "ready": "cli.eal:ready",
    "uninstall": "cli.install:uninstall",
    "uninstall-nodes": "cli.install:uninstall_nodes",
    "version": "cli.version:version",
    "vf": "cli.vf:vf",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, or listed by --help."""

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
