"""`wirespeed measure`: throughput, latency and loss between two interfaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options
from wirespeed.cli.durations import Duration

if TYPE_CHECKING:
    from wirespeed.measure.report import Report, Settings

_TESTS = ("throughput", "latency", "loss")
_SIZES = (64, 128, 256, 512, 1024, 1280, 1518)  # RFC 2544, section 9.1


@click.command()
@click.option("--from", "source", metavar="[PLACE:]INTERFACE", help="The interface that sends; see above.")
@click.option("--to", "destination", metavar="[PLACE:]INTERFACE", help="The interface that receives.")
@click.option(
    "--network",
    metavar="[NAMESPACE/]NAME",
    help="Instead of --from and --to: make two pods on this network with `wirespeed play`, measure from one to the "
    "other, and remove them.",
)
@click.option(
    "--play",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="With --network: a file or directory of manifests that defines the network; may be given several times.",
)
@click.option(
    "--pools",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --network: the pools of devices, as for `wirespeed play`.",
)
@click.option(
    "--cni-conf",
    type=click.Path(path_type=Path),
    default="/etc/cni/net.d",
    show_default=True,
    help="With --network: the runtime's CNI configuration, as for `wirespeed play`.",
)
@click.option(
    "--cni-path",
    default="/opt/cni/bin:/usr/lib/cni",
    show_default=True,
    metavar="FOLDERS",
    help="With --network: the directories of executable plugins.",
)
@click.option(
    "--shim",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --network: the shim's executable, as for `wirespeed play`.",
)
@click.option(
    "--test",
    "tests",
    multiple=True,
    type=click.Choice(_TESTS),
    default=_TESTS,
    show_default=True,
    help="What to measure; may be given several times. A latency needs the throughput, which is then searched too.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(min=64, max=9216),
    default=_SIZES,
    show_default=True,
    help="The size of the frames in bytes, with FCS; may be given several times.",
)
@click.option(
    "--trial",
    type=Duration(0.1),
    default="60s",
    show_default=True,
    help="How long a trial sends.",
)
@click.option(
    "--pause",
    type=Duration(0),
    default="5s",
    show_default=True,
    help="The time between two trials.",
)
@click.option(
    "--resolution",
    type=click.FloatRange(min=0.01, max=50),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="The throughput is found with this precision, in percent.",
)
@click.option(
    "--accept-loss",
    "accepted_loss",
    type=click.FloatRange(min=0, max=50),
    default=0.0,
    show_default=True,
    metavar="PERCENT",
    help="The throughput is the highest rate at which no more than this is lost.",
)
@click.option(
    "--latency-load",
    type=click.FloatRange(min=0, min_open=True, max=100),
    default=100.0,
    show_default=True,
    metavar="PERCENT",
    help="The rate at which the latency is measured, in percent of the throughput.",
)
@click.option(
    "--max-rate",
    type=click.FloatRange(min=1),
    metavar="FRAMES/S",
    help="The highest rate.  [default: the line rate, or what the generator can send]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every trial.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a picture of the results to this SVG file.",
)
@options.config("The agent's configuration file, for finding the pods of this node")
def measure(
    *,
    source: str | None,
    destination: str | None,
    network: str | None,
    files: tuple[Path, ...],
    pools: Path | None,
    cni_conf: Path,
    cni_path: str,
    shim: Path | None,
    as_json: bool,
    plot: Path | None,
    config: Path | None,
    **settings: object,
) -> None:
    """Measure throughput, latency and frame loss from one interface to another.

    The procedures are those of RFC 2544, sections 26.1 to 26.3. Both interfaces are on this machine, and the kernel
    drives them. It needs root. The interfaces are not changed, but the path between them is loaded as far as it
    will go.

    PLACE is where an interface is: pod/[<namespace>/]<name> for a pod that runs on this node, a name of `ip netns`,
    or the path of a network namespace; without PLACE, it is on the host. In the command of `wirespeed play --then`,
    the pods are those of the play.

    The report also shows what the generator itself can do on this machine. A figure that is limited by it says
    nothing about the path, except that the path is at least that fast. The command gives itself a real-time
    priority, so that other programs do not hold it up; it takes one CPU, and part of another.
    """
    from wirespeed.errors import os_errors  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.measure import plots, report  # noqa: PLC0415

    asked = report.Settings(**settings)  # type: ignore[arg-type]
    if network:
        if source or destination:
            raise click.UsageError("--network makes the pods itself: it is not allowed with --from and --to")
        folders = tuple(folder for folder in cni_path.split(":") if folder)
        found = _between_played_pods(
            network, asked, files=files, pools=pools, cni_conf=cni_conf, cni_path=folders, shim=shim
        )
    elif source and destination:
        found = _between(source, destination, asked, config)
    else:
        raise click.UsageError("expected --from and --to, or --network")
    if plot:
        with os_errors():
            plot.write_text(plots.svg(found), encoding="utf-8")
    click.echo(f"{options.as_json(found)}\n" if as_json else report.text(found), nl=False)


def _between(source: str, destination: str, settings: Settings, config: Path | None) -> Report:
    import os  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.measure import path, pods, procedure  # noqa: PLC0415

    ends = pods.endpoint(source, config), pods.endpoint(destination, config)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:  # without CAP_SYS_NICE, or in a control group without real-time budget
        click.echo("warning: no real-time priority: other programs may hold the measurement up", err=True)
    with path.loopback() as alone, path.opened(*ends) as measured:
        return procedure.measure(measured, alone, settings, note=lambda line: click.echo(line, err=True))


def _between_played_pods(network: str, settings: Settings, **options: object) -> Report:
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main

    extras.need("play", "wirespeed measure --network")
    from wirespeed.measure import played  # noqa: PLC0415
    from wirespeed.play.play import Options  # noqa: PLC0415

    return played.measure(Options(**options), network, settings)  # type: ignore[arg-type]
