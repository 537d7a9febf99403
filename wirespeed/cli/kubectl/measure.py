"""`kubectl wirespeed measure`: throughput, latency and loss between two pods of a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options
from wirespeed.cli.durations import Duration
from wirespeed.cli.kubectl import completion
from wirespeed.cli.kubectl.connection import connected, connected_session
from wirespeed.cli.measure import check_output, check_path, check_through, flags, put_out, settings_options

if TYPE_CHECKING:
    from wirespeed.cli.kubectl.session import Caller


@click.command(
    epilog=options.examples(
        "kubectl wirespeed measure --network shop/fast --node node1 --trial 1s --pause 0s",
        "kubectl wirespeed measure --from pod/left:net1 --to pod/right:net1 --plot measure.svg",
    )
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="[NAMESPACE/]NAME",
    help="Make two pods on this network, measure from one to the other, and remove them. Given twice: the network "
    "of the pod that sends, and that of the one that receives.",
)
@click.option(
    "--node",
    metavar="NAME",
    shell_complete=completion.nodes,
    help="The node for the pods of --network.",
)
@click.option(
    "--from",
    "source",
    metavar="POD:INTERFACE",
    help="Instead of --network: the interface that sends, pod/[NAMESPACE/]NAME:INTERFACE, of a pod that runs.",
)
@click.option("--to", "destination", metavar="POD:INTERFACE", help="The interface that receives, on the same node.")
@click.option(
    "--through",
    multiple=True,
    metavar="PORT",
    help="Measure through a forwarder that runs; given twice, for the port where the frames enter and the one "
    "where they leave: pod/[NAMESPACE/]NAME:INTERFACE of a pod on the same node, or a MAC address.",
)
@click.option(
    "--direct",
    is_flag=True,
    help="With --through: first measure without the forwarder. Switches must connect the two interfaces directly.",
)
@click.option(
    "--image",
    default="",
    metavar="IMAGE",
    help="The image of the pods of --network, which must have `sleep`.  [default: that of the agent, which is on "
    "the node]",
)
@click.option(
    "--timeout",
    type=Duration(1),
    default="2m",
    show_default=True,
    help="How long the pods of --network may take to get ready.",
)
@settings_options
@connected
def measure(
    *,
    caller: Caller,
    networks: tuple[str, ...],
    node: str | None,
    source: str | None,
    destination: str | None,
    through: tuple[str, ...],
    direct: bool,
    image: str,
    timeout: float,
    real_time: bool | None,
    as_json: bool,
    plot: Path | None,
    **others: object,
) -> None:
    """Measure throughput, latency and frame loss between two pods of a node.

    Runs `wirespeed measure` in the container of the node's agent, as `kubectl exec` does, and prints its report.
    The path is loaded as far as it will go: do not use it on a node whose pods need the network at that time.

    Both interfaces are in pods on one node, and the kernel drives them. With --network, the pods are made with your
    rights, in the namespaces of their networks, and removed at the end.

    You need the right to execute commands in the agent's pod, which is as good as root on the node.
    """
    from wirespeed.cli.kubectl import measuring  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.measure.report import Settings  # noqa: PLC0415

    check_output(plot, as_json=as_json)
    check_path(networks, source, destination)
    check_through(through, direct=direct)
    if networks and not node:
        raise click.UsageError("--network makes pods on a node: expected --node")
    wanted = measuring.Wanted(
        networks=networks,
        node=node or "",
        ends=tuple(each for each in (source, destination) if each),
        through=through,
        flags=flags(direct=direct, real_time=real_time),
        image=image,
        timeout=timeout,
    )
    settings = Settings(**others)  # type: ignore[arg-type]
    with connected_session(caller) as session, measuring.interruptible():
        found = measuring.measure(session, wanted, settings, note=lambda line: click.echo(line, err=True))
    put_out(found, plot=plot, as_json=as_json)
