"""`wirespeed deviceplugin`: run the device plugin without the agent, or show the pool of each device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options

if TYPE_CHECKING:
    from wirespeed.node import NodeConfig


@click.command(
    epilog=options.examples(
        "wirespeed deviceplugin --pools pools.yaml --dry-run",
        "wirespeed deviceplugin --dry-run --json | jq '.[] | select(.resource == \"\")'",
    )
)
@options.config()
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
@options.DRY_RUN_JSON
@options.log_level()
def deviceplugin(
    *,
    config: Path | None,
    pools: Path | None,
    resource_prefix: str | None,
    dry_run: bool,
    as_json: bool,
    log_level: str,
) -> None:
    """Run the device plugin without the agent.

    Offers this node's devices to the kubelet.

    Runs until SIGTERM or SIGINT. An agent whose configuration has `devicePlugin` does this itself.
    """
    options.check_dry_run_json(as_json=as_json, dry_run=dry_run)
    from wirespeed.agent.log import to_stderr  # noqa: PLC0415 — see wirespeed.cli.main

    to_stderr("warning" if dry_run else log_level)
    where = _where(config, pools, resource_prefix)
    if dry_run:
        from wirespeed.deviceplugin.config import load_node_pools  # noqa: PLC0415
        from wirespeed.deviceplugin.pools import explain, reader, table  # noqa: PLC0415
        from wirespeed.kernel.routes import default_route_interfaces  # noqa: PLC0415

        loaded = load_node_pools(where)
        found = explain(loaded, reader(loaded, where.sysfs).read(default_route_interfaces()))
        click.echo(options.as_json(found) if as_json else table(found, loaded))
    else:
        _serve(where)


def _where(config: Path | None, pools: Path | None, prefix: str | None) -> NodeConfig:
    import msgspec  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.errors import Error, Kind  # noqa: PLC0415
    from wirespeed.node import load_config  # noqa: PLC0415

    given = {"device_plugin": str(pools or ""), "resource_prefix": prefix}
    where = msgspec.structs.replace(load_config(config), **{key: value for key, value in given.items() if value})
    if not where.device_plugin:
        raise Error(Kind.INVALID_CONFIG, key="devicePlugin", missing=True, expected="a path there, or --pools FILE")
    return where


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
            node.reload()
        elif stop.is_set():
            os._exit(128 + number)
        else:
            stop.set()

    with signals.handled((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), handle):
        run(node, stop)
    # Everything is done and logged. Skip the interpreter's shutdown, which would take longer than all of that.
    os._exit(0)
