"""`wirespeed attach` and `wirespeed detach`: add and remove networks of a running pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The agent's configuration file.  [default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml if it exists]",
)


@click.command()
@click.argument("pod")
@click.argument("network")
@click.option("--interface", default="", help="The interface's name.  [default: the first free of net1, net2, ...]")
@_CONFIG
def attach(*, pod: str, network: str, interface: str, config: Path | None) -> None:
    """Attach NETWORK to POD, which runs on this node.

    POD is [<namespace>/]<name>. NETWORK is [<namespace>/]<name>, or an element of the annotation
    k8s.v1.cni.cncf.io/networks in JSON: '{"name": "fast", "ips": ["10.1.0.7/24"]}'. It is detached when the pod is
    deleted, or with `wirespeed detach`. Prints the interface and its addresses.
    """
    made = _order(config, "ATTACH", pod, element(network, interface))
    click.echo(" ".join([made["interface"], *made["ips"]]))


@click.command()
@click.argument("pod")
@click.argument("network")
@_CONFIG
def detach(*, pod: str, network: str, config: Path | None) -> None:
    """Detach NETWORK from POD, which runs on this node. NETWORK is its name or its interface."""
    made = _order(config, "DETACH", pod, network)
    click.echo(made["interface"])


def element(network: str, interface: str) -> str:
    """Return the network as an annotation value with one element. Raises click.UsageError."""
    if not network.lstrip().startswith("{"):
        return f"{network}@{interface}" if interface else network
    try:
        value = json.loads(network)
    except ValueError as error:
        raise click.UsageError(f"NETWORK: not JSON: {error}") from error
    return json.dumps([{**value, "interface": interface} if interface else value])


def _order(config: Path | None, verb: str, pod: str, network: str) -> dict[str, Any]:
    from wirespeed.agent.hotplug import order  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.cni.errors import CniError  # noqa: PLC0415
    from wirespeed.node import Node, load_config  # noqa: PLC0415

    node = None
    try:
        node = Node(load_config(config), once=True)
        return order(node, verb, pod, network)
    except CniError as error:
        raise click.ClickException(error.msg) from error
    finally:
        if node is not None:
            node.close()
