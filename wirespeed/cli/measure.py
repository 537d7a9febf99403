"""`wirespeed measure`: throughput, latency and loss between two interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirespeed.cli import options
from wirespeed.cli.durations import Duration
from wirespeed.cli.options import Command

if TYPE_CHECKING:
    from wirespeed.measure.report import Report, Settings

_TESTS = ("throughput", "latency", "loss")
_SIZES = (64, 128, 256, 512, 1024, 1280, 1518)  # RFC 2544, section 9.1


_SETTINGS = (
    click.option(
        "--test",
        "tests",
        multiple=True,
        type=click.Choice(_TESTS),
        default=_TESTS,
        show_default=True,
        help="What to measure; may be given several times. A latency needs the throughput, which is then searched "
        "too.",
    ),
    click.option(
        "--size",
        "sizes",
        multiple=True,
        type=click.IntRange(min=64, max=9216),
        default=_SIZES,
        show_default=True,
        help="The size of the frames in bytes, with FCS; may be given several times.",
    ),
    click.option(
        "--trial",
        type=Duration(0.1),
        default="60s",
        show_default=True,
        help="How long a trial sends.",
    ),
    click.option(
        "--pause",
        type=Duration(0),
        default="5s",
        show_default=True,
        help="The time between two trials.",
    ),
    click.option(
        "--resolution",
        type=click.FloatRange(min=0.01, max=50),
        default=1.0,
        show_default=True,
        metavar="PERCENT",
        help="The throughput is found with this precision, in percent.",
    ),
    click.option(
        "--accept-loss",
        "accepted_loss",
        type=click.FloatRange(min=0, max=50),
        default=0.0,
        show_default=True,
        metavar="PERCENT",
        help="The throughput is the highest rate at which no more than this is lost.",
    ),
    click.option(
        "--latency-load",
        type=click.FloatRange(min=0, min_open=True, max=100),
        default=100.0,
        show_default=True,
        metavar="PERCENT",
        help="The rate at which the latency is measured, in percent of the throughput.",
    ),
    click.option(
        "--max-rate",
        type=click.FloatRange(min=1),
        metavar="FRAMES/S",
        help="The highest rate.  [default: the line rate, or what the generator can send]",
    ),
    click.option(
        "--real-time/--no-real-time",
        default=None,
        help="Give the measurement a real-time priority, so that other programs do not hold it up. It may hold up "
        "them.  [default: yes with 4 CPUs or more and without --through]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, with every trial."),
    click.option(
        "--plot",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        help="Write a picture of the results to this SVG file; -: to standard output, instead of the report.",
    ),
)


def settings_options(command: Command) -> Command:
    """Add the options that say how to measure and what to print; `put_out` prints it."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.command()
@click.option("--from", "source", metavar="[PLACE:]INTERFACE", help="The interface that sends; see above.")
@click.option("--to", "destination", metavar="[PLACE:]INTERFACE", help="The interface that receives.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="[NAMESPACE/]NAME",
    help="Instead of --from and --to: make two pods on this network with `wirespeed play`, measure from one to the "
    "other, and remove them. Given twice: the network of the pod that sends, and that of the one that receives.",
)
@click.option(
    "--through",
    multiple=True,
    metavar="PORT",
    help="Measure through a forwarder; given twice, for the port where the frames enter and the one where they "
    "leave. Two networks of DPDK ports, [NAMESPACE/]NAME: make a pod with testpmd on them by `wirespeed play`, and "
    "remove it. Otherwise the ports of a forwarder that runs: pod/[NAMESPACE/]NAME:INTERFACE, or a MAC address.",
)
@click.option(
    "--direct",
    is_flag=True,
    help="With --through: first measure without the forwarder. Switches must connect the two interfaces directly.",
)
@click.option("--testpmd", hidden=True, type=click.Path(path_type=Path), help="For a play: testpmd's directory.")
@click.option(
    "--play",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="To make pods: a file or directory of manifests that defines the network; may be given several times.",
)
@click.option(
    "--pools",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="To make pods: the pools of devices, as for `wirespeed play`.",
)
@click.option(
    "--cni-conf",
    type=click.Path(path_type=Path),
    default="/etc/cni/net.d",
    show_default=True,
    help="To make pods: the runtime's CNI configuration, as for `wirespeed play`.",
)
@click.option(
    "--cni-path",
    default="/opt/cni/bin:/usr/lib/cni",
    show_default=True,
    metavar="FOLDERS",
    help="To make pods: the directories of executable plugins.",
)
@click.option(
    "--shim",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="To make pods: the shim's executable, as for `wirespeed play`.",
)
@settings_options
@options.config("The agent's configuration file, for finding the pods of this node")
@click.option("--until-eof", is_flag=True, hidden=True, help="End when standard input ends, as by Ctrl-C.")
def measure(
    *,
    source: str | None,
    destination: str | None,
    networks: tuple[str, ...],
    through: tuple[str, ...],
    direct: bool,
    testpmd: Path | None,
    real_time: bool | None,
    as_json: bool,
    plot: Path | None,
    config: Path | None,
    until_eof: bool,
    **others: object,
) -> None:
    """Measure throughput, latency and frame loss from one interface to another.

    The procedures are those of RFC 2544, sections 26.1 to 26.3. Both interfaces are on this machine, and the kernel
    drives them. It needs root. The interfaces are not changed, but the path between them is loaded as far as it
    will go. With --through, a forwarder is in the middle of the path, such as a DPDK application in a pod.

    PLACE is where an interface is: pod/[<namespace>/]<name> for a pod that runs on this node, a name of `ip netns`,
    or the path of a network namespace; without PLACE, it is on the host. In the command of `wirespeed play --then`,
    the pods are those of the play.

    The report also shows what the generator itself can do on this machine. A figure that is limited by it says
    nothing about the path, except that the path is at least that fast. The generator takes one CPU, and part of
    another.
    """
    from wirespeed.measure import report  # noqa: PLC0415 — see wirespeed.cli.main

    check_output(plot, as_json=as_json)
    if until_eof:
        _end_with_input()
    play_options = {name: others.pop(name) for name in _OF_PLAY}
    asked = _Asked(
        source=source,
        destination=destination,
        networks=networks,
        through=through,
        direct=direct,
        testpmd=testpmd,
        real_time=real_time,
        config=config,
    )
    check_path(networks, source, destination)
    check_through(through, direct=direct)
    settings = report.Settings(**others)  # type: ignore[arg-type]
    found = _in_play(asked, settings, play_options) if asked.needs_play else _between(asked, settings)
    put_out(found, plot=plot, as_json=as_json)


_OF_PLAY = ("files", "pools", "cni_conf", "cni_path", "shim")
_STANDARD_OUTPUT = Path("-")
# With fewer CPUs, a sender with a real-time priority may take the one that a poll mode driver or a neighbour needs.
_REAL_TIME_CPUS = 4
_NICE = -10  # gets 9 times the CPU time of a program with 0, which still runs


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options that say what to measure."""

    source: str | None
    destination: str | None
    networks: tuple[str, ...]
    through: tuple[str, ...]
    direct: bool
    testpmd: Path | None
    real_time: bool | None
    config: Path | None

    @property
    def makes_forwarder(self) -> bool:
        from wirespeed.measure import pods  # noqa: PLC0415 — see wirespeed.cli.main

        return any(pods.is_made(each) for each in self.through)

    @property
    def needs_play(self) -> bool:
        return bool(self.networks) or self.makes_forwarder


def check_path(networks: tuple[str, ...], source: str | None, destination: str | None) -> None:
    """Check the options that say what the ends are. Raises click.UsageError."""
    if networks and (source or destination):
        raise click.UsageError("--network makes the pods itself: it is not allowed with --from and --to")
    if not networks and not (source and destination):
        raise click.UsageError("expected --from and --to, or --network")
    if len(networks) > 2:
        raise click.UsageError(f"expected --network once or twice, got {len(networks)} times")


def check_through(through: tuple[str, ...], *, direct: bool) -> None:
    """Check the options that say what is between the ends. Raises click.UsageError."""
    from wirespeed.measure import pods  # noqa: PLC0415 — see wirespeed.cli.main

    if len(through) not in {0, 2}:
        raise click.UsageError(f"expected --through twice, for two ports, got {len(through)} times")
    if len({pods.is_made(each) for each in through}) > 1:
        raise click.UsageError("expected --through with two networks, or with two ports of a forwarder that runs")
    if direct and not through:
        raise click.UsageError("--direct needs --through: without it, the path is direct already")


def _between(asked: _Asked, settings: Settings) -> Report:
    from wirespeed.measure import pods, run  # noqa: PLC0415 — see wirespeed.cli.main

    assert asked.source
    assert asked.destination
    wanted = run.Wanted(
        source=pods.endpoint(asked.source, asked.config),
        destination=pods.endpoint(asked.destination, asked.config),
        through=asked.through,
        testpmd=asked.testpmd,
        direct=asked.direct,
        config=asked.config,
    )
    _set_priority(asked)
    return run.measure(wanted, settings, note=lambda line: click.echo(line, err=True))


def _set_priority(asked: _Asked) -> None:
    """Give this process a real-time priority if that is asked for or does no harm, or else a low nice value."""
    import os  # noqa: PLC0415 — see wirespeed.cli.main

    enough = len(os.sched_getaffinity(0)) >= _REAL_TIME_CPUS
    try:
        if asked.real_time or (asked.real_time is None and enough and not asked.through):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        elif not asked.through:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except PermissionError:  # without CAP_SYS_NICE, or in a control group without real-time budget
        click.echo("warning: no higher priority: other programs may hold the measurement up", err=True)


def _in_play(asked: _Asked, settings: Settings, options: dict[str, Any]) -> Report:
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main

    extras.need("play", "wirespeed measure --network" if asked.networks else "wirespeed measure --through NETWORK")
    from wirespeed.measure import played, pods  # noqa: PLC0415
    from wirespeed.play.play import Options  # noqa: PLC0415

    options["cni_path"] = tuple(folder for folder in options["cni_path"].split(":") if folder)
    ends = [each for each in (asked.source, asked.destination) if each]
    running = () if asked.makes_forwarder else asked.through
    wanted = played.Wanted(
        networks=asked.networks * 2 if len(asked.networks) == 1 else asked.networks,
        ends=tuple(pods.endpoint(each, asked.config) for each in ends),
        through=asked.through if asked.makes_forwarder else (),
        running=tuple(pods.port(each, asked.config).mac for each in running),
        flags=flags(direct=asked.direct, real_time=asked.real_time),
    )
    return played.measure(Options(**options), wanted, settings)


def flags(*, direct: bool, real_time: bool | None) -> tuple[str, ...]:
    """Return these options as another `wirespeed measure` is given them."""
    priority = {None: (), True: ("--real-time",), False: ("--no-real-time",)}
    return (*priority[real_time], *(["--direct"] if direct else []))


def _end_with_input() -> None:
    """Interrupt this process when its standard input ends: whoever asked for the measurement has left.

    A container's runtime ends the input of a command, not the command, when its client disconnects.
    """
    import os  # noqa: PLC0415 — see wirespeed.cli.main
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    main = threading.main_thread().ident
    assert main

    def wait() -> None:
        while os.read(0, 4096):
            pass
        signal.pthread_kill(main, signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it for this process
    threading.Thread(target=wait, name="input", daemon=True).start()


def check_output(plot: Path | None, *, as_json: bool) -> None:
    """Raises click.UsageError if standard output is to have both."""
    if plot == _STANDARD_OUTPUT and as_json:
        raise click.UsageError("--plot - and --json both print to standard output")


def put_out(found: Report, *, plot: Path | None, as_json: bool) -> None:
    """Print the report as `settings_options` ask. Raises Error(IO)."""
    from wirespeed.errors import os_errors  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.measure import plots, report  # noqa: PLC0415

    if plot == _STANDARD_OUTPUT:
        click.echo(plots.svg(found), nl=False)
        return
    if plot:
        with os_errors():
            plot.write_text(plots.svg(found), encoding="utf-8")
    click.echo(f"{options.as_json(found)}\n" if as_json else report.text(found), nl=False)
