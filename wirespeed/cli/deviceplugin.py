"""`wirespeed deviceplugin`: run the device plugin without the agent, or show the pool of each device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wirespeed.node import NodeConfig


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The agent's configuration file.  [default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml if it exists]",
)
@click.option(
    "--pools",
    type=click.Path(path_type=Path),
    help="The device plugin's configuration file, or a directory with a file for each node. Overrides "
    "devicePlugin of the agent's configuration.",
)
@click.option(
    "--resource-prefix", help="Prefix for pools without one. Overrides resourcePrefix of the agent's configuration."
)
@click.option("--dry-run", is_flag=True, help="Show the pool of each device, or why it has none, then exit.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The lowest level to log. The log goes to standard error.",
)
def deviceplugin(
    config: Path | None,
    pools: Path | None,
    resource_prefix: str | None,
    dry_run: bool,
    log_level: str,
) -> None:
    """Run the device plugin without the agent.

    Offers this node's devices to the kubelet.

    Runs until SIGTERM or SIGINT. An agent whose configuration has `devicePlugin` does this itself.
    """
    from wirespeed.agent.log import to_stderr  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.cni.errors import CniError  # noqa: PLC0415

    to_stderr("warning" if dry_run else log_level)
    try:
        where = _where(config, pools, resource_prefix)
        if dry_run:
            click.echo(_table(where))
        else:
            _serve(where)
    except CniError as error:
        raise click.ClickException(error.msg) from error


def _where(config: Path | None, pools: Path | None, prefix: str | None) -> NodeConfig:
    import msgspec  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cni.errors import CniError, Code  # noqa: PLC0415
    from wirespeed.node import load_config  # noqa: PLC0415

    where = load_config(config)
    where = msgspec.structs.replace(
        where,
        device_plugin=str(pools or where.device_plugin),
        resource_prefix=prefix or where.resource_prefix,
    )
    if not where.device_plugin:
        raise CniError(
            Code.INVALID_CONFIG, "the configuration names no devicePlugin: expected that, or --pools FILE"
        )
    return where


def _table(where: NodeConfig) -> str:
    from wirespeed.deviceplugin.config import load_of  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.deviceplugin.pools import explain, reader  # noqa: PLC0415
    from wirespeed.kernel.routes import default_route_interfaces  # noqa: PLC0415

    pools = load_of(where)
    return explain(pools, reader(pools, where.sysfs).read(default_route_interfaces()))


def _serve(where: NodeConfig) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once."""
    import os  # noqa: PLC0415 — see wirespeed.cli.main
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from wirespeed.deviceplugin import run  # noqa: PLC0415
    from wirespeed.node import Node  # noqa: PLC0415
    from wirespeed.system import signals  # noqa: PLC0415

    node, stop = Node(where), threading.Event()

    def handle(number: int) -> None:
        if number == signal.SIGHUP:
            node.hang_up()
        elif stop.is_set():
            os._exit(128 + number)
        else:
            stop.set()

    with signals.handled((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), handle):
        run(node, stop)
    # Everything is done and logged. Skip the interpreter's shutdown, which would take longer than all of that.
    os._exit(0)
