"""`wirespeed attach` and `wirespeed detach`: add and remove networks of a running pod."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import completion, options

if TYPE_CHECKING:
    from wirespeed.agent.hotplug import Changed


@click.command(
    epilog=options.examples(
        "wirespeed attach web-0 fast",
        "wirespeed attach tenant-a/web-0 infra/fast --interface fast0",
        """wirespeed attach web-0 '{"name": "fast", "ips": ["10.1.0.7/24"]}'""",
    )
)
@click.argument("pod", shell_complete=completion.pods)
@click.argument("network", shell_complete=completion.networks)
@click.option("--interface", default="", help="The interface's name.  [default: the first free of net1, net2, ...]")
@options.AS_JSON
@options.config()
def attach(*, pod: str, network: str, interface: str, as_json: bool, config: Path | None) -> None:
    """Attach NETWORK to POD, which runs on this node.

    POD is [<namespace>/]<name>. NETWORK is [<namespace>/]<name>, or an element of the annotation
    k8s.v1.cni.cncf.io/networks in JSON: '{"name": "fast", "ips": ["10.1.0.7/24"]}'. It is detached when the pod is
    deleted, or with `wirespeed detach`. Prints the interface and its addresses.
    """
    changed = _change_network(config, "ATTACH", pod, element(network, interface))
    click.echo(options.as_json(changed) if as_json else " ".join([changed.interface, *changed.ips]))


@click.command(epilog=options.examples("wirespeed detach web-0 fast", "wirespeed detach tenant-a/web-0 net2"))
@click.argument("pod", shell_complete=completion.pods)
@click.argument("network", shell_complete=completion.networks_of_pod)
@options.AS_JSON
@options.config()
def detach(*, pod: str, network: str, as_json: bool, config: Path | None) -> None:
    """Detach NETWORK from POD, which runs on this node. NETWORK is its name or its interface."""
    changed = _change_network(config, "DETACH", pod, network)
    click.echo(options.as_json(changed) if as_json else changed.interface)


def element(network: str, interface: str) -> str:
    """Return the network as an annotation value with one element. Raises click.UsageError."""
    if not network.lstrip().startswith("{"):
        return f"{network}@{interface}" if interface else network
    try:
        value = json.loads(network)
    except ValueError as error:
        raise click.UsageError(f"NETWORK: not JSON: {error}") from error
    return json.dumps([{**value, "interface": interface} if interface else value])


def _change_network(config: Path | None, verb: str, pod: str, network: str) -> Changed:
    from wirespeed.agent.hotplug import change_network  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.node import Node, load_config  # noqa: PLC0415

    with closing(Node(load_config(config), once=True)) as node:
        return change_network(node, verb, pod, network)
