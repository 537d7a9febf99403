"""`wirespeed install` and `wirespeed uninstall`: this node's place in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from wirespeed.agent.install.plan import Options, Plan

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _places(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing."),
        click.option("--force", is_flag=True, help="Leave behind what cannot be taken over, or given back."),
        click.option("--sriov-dir", type=_FOLDER, default="/var/lib/cni/sriov", help="What sriov-cni keeps."),
        click.option("--multus-dir", type=_FOLDER, help="What Multus keeps.  [default: as its configuration says]"),
        click.option("--unit-dir", type=_FOLDER, default="/etc/systemd/system", help="Where units are."),
        click.option(
            "--config", type=_FILE, default="/etc/wirespeed/agent.yaml", help="The agent's configuration."
        ),
        click.option("--bin-dir", type=_FOLDER, default="/opt/cni/bin", help="The runtime's folder of plugins."),
    ):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option("--shim", type=_FILE, help="The built shim.  [default: the one beside this program]")
@click.option(
    "--replace",
    type=click.Choice(["multus", "sriov-cni", "userspace-cni"]),
    multiple=True,
    help="Take its names, its configuration and its pods. May be given several times; who was replaced before and "
    "is not named any more gets the names back.",
)
@click.option("--daemon-config", type=_FILE, help="Multus' daemon-config.json, with --replace multus.")
@click.option("--cni-config-dir", type=_FOLDER, default="/etc/cni/net.d", help="The runtime's configurations.")
@click.option("--kubeconfig", default="", help="For an agent that is no pod: how it reaches the API server.")
@click.option("--systemd", is_flag=True, help="Write a unit for the agent.")
@_places
def install(*, systemd: bool, shim: Path | None, dry_run: bool, **given: Any) -> None:
    """Put the shim where the runtime calls it, and a configuration for the agent where there is none.

    What is done is listed, and taken back when a part of it fails. A second time changes nothing.
    """
    from wirespeed.agent.install import plan  # noqa: PLC0415 — see wirespeed.cli.main

    options = plan.Options(
        shim=shim or _beside("wirespeed-cni"),
        unit=_beside("wirespeed-agent.service") if systemd else None,
        command=_command(),
        **given,
    )
    _carry_out(plan.installation, options, dry_run=dry_run)


@click.command(context_settings={"show_default": True})
@_places
def uninstall(*, dry_run: bool, **given: Any) -> None:
    """Take away what install put there, and put back what it replaced. The agent must be stopped."""
    from wirespeed.agent.install import plan  # noqa: PLC0415 — see wirespeed.cli.main

    options = plan.Options(shim=Path(), **given)
    _carry_out(plan.removal, options, dry_run=dry_run)


@click.command(name="uninstall-nodes", context_settings={"show_default": True})
@click.option("--namespace", required=True, help="Where the DaemonSets are.")
@click.option("--agents", multiple=True, required=True, help="A DaemonSet of agents. May be given several times.")
@click.option("--removers", multiple=True, required=True, help="A DaemonSet of removers. The same.")
@click.option("--timeout", type=click.FloatRange(1), default=240, help="Seconds for all of it.")
@click.option("--kubeconfig", default="", help="For a program that is no pod: how it reaches the API server.")
def uninstall_nodes(
    *, namespace: str, agents: tuple[str, ...], removers: tuple[str, ...], timeout: float, kubeconfig: str
) -> None:
    """Uninstall on all nodes of a cluster, or on none: what the Helm chart runs before a release goes.

    The removers' first init container is `wirespeed uninstall --dry-run`. When it has succeeded on every node, the
    agents are stopped, and it runs without --dry-run.
    """
    import signal  # noqa: PLC0415 — see wirespeed.cli.main
    from contextlib import closing  # noqa: PLC0415
    from types import FrameType  # noqa: PLC0415

    from wirespeed.agent.install.nodes import Nodes  # noqa: PLC0415
    from wirespeed.cni.errors import CniError  # noqa: PLC0415
    from wirespeed.kube.api import Api  # noqa: PLC0415

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # what was begun is being undone
        raise KeyboardInterrupt  # which nothing takes for a failure of a request

    signal.signal(signal.SIGTERM, end)
    try:
        with closing(Api(kubeconfig)) as api:
            nodes = Nodes(api, namespace, agents=agents, removers=removers, seconds=timeout)
            nodes.give_back(click.echo)
    except CniError as error:
        raise click.ClickException(error.msg) from error
    except KeyboardInterrupt as error:
        raise click.ClickException("stopped before all nodes were done") from error


def _carry_out(planned: Callable[[Options], Plan], options: Options, *, dry_run: bool) -> None:
    """Show a plan and carry it out."""
    import contextlib  # noqa: PLC0415 — see wirespeed.cli.main
    import os  # noqa: PLC0415

    from wirespeed.agent.install import plan as plans  # noqa: PLC0415
    from wirespeed.agent.install.steps import execute  # noqa: PLC0415
    from wirespeed.cni.errors import CniError  # noqa: PLC0415

    if os.geteuid() != 0:
        raise click.ClickException("expected root: this changes what the node runs as root")
    try:
        plan = planned(options)
        if dry_run:
            for step in plan.steps:
                click.echo(f"would {step.what}")
            plan.notes += plan.outlook()
        elif plan.steps:
            with plans.no_agent(plan.config) if plan.alone else contextlib.nullcontext():
                execute(plan.steps, click.echo)
    except CniError as error:
        raise click.ClickException(error.msg) from error
    if not plan.steps:
        click.echo("nothing to do")
    for note in plan.notes:
        click.echo(f"note: {note}")


def _beside(name: str) -> Path:
    """A file that comes with this program: installed with it, or built in its folder of sources."""
    import sys  # noqa: PLC0415 — see wirespeed.cli.main

    sources = Path(__file__).parents[2]
    places = [Path(sys.prefix, "share/wirespeed"), sources / "build", sources / "deploy"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise click.ClickException(f"there is no {name} in {', '.join(map(str, places))}: is it built?")


def _command() -> str:
    """The path of this program, for a service to start it by."""
    import shutil  # noqa: PLC0415 — see wirespeed.cli.main
    import sys  # noqa: PLC0415

    return str(Path(shutil.which(sys.argv[0]) or sys.argv[0]).resolve())
