"""`wirespeed install` and `wirespeed uninstall`: add wirespeed to a node of a cluster, and remove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirespeed.cli import options as common
from wirespeed.cli.durations import Duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from wirespeed.agent.install.plan import Options, Plan

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _common_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        common.DRY_RUN_JSON,
        click.option("--dry-run", is_flag=True, help="Show the plan without changing anything."),
        click.option(
            "--force",
            is_flag=True,
            help="Continue although pods cannot be taken over or given back; nothing will detach them.",
        ),
        click.option(
            "--sriov-dir",
            type=_FOLDER,
            help="sriov-cni's state directory.  [default: as recorded by the last install, else "
            "/var/lib/cni/sriov]",
        ),
        click.option(
            "--multus-dir",
            type=_FOLDER,
            help="Multus' state directory.  [default: the cniDir of Multus' configuration (install only), else as "
            "recorded by the last install, else /var/lib/cni/multus]",
        ),
        click.option(
            "--unit-dir", type=_FOLDER, default="/etc/systemd/system", help="The directory of systemd units."
        ),
        click.option(
            "--config", type=_FILE, default="/etc/wirespeed/agent.yaml", help="The agent's configuration file."
        ),
        click.option("--bin-dir", type=_FOLDER, default="/opt/cni/bin", help="The runtime's plugin directory."),
    ):
        command = option(command)
    return command


@click.command(
    context_settings={"show_default": True},
    epilog=common.examples(
        "wirespeed install --dry-run",
        "wirespeed install --systemd --kubeconfig /etc/wirespeed/kubeconfig",
        "wirespeed install --replace multus --replace sriov-cni",
    ),
)
@click.option("--shim", type=_FILE, help="The shim's executable.  [default: the one beside this program]")
@click.option(
    "--replace",
    type=click.Choice(["multus", "sriov-cni", "userspace-cni"]),
    multiple=True,
    help="Take over this program's plugin names, configuration and pods. May be given several times. A program "
    "that was replaced before and is not named now gets its plugin names back.",
)
@click.option("--daemon-config", type=_FILE, help="Multus' daemon-config.json, for --replace multus.")
@click.option(
    "--cni-config-dir", type=_FOLDER, default="/etc/cni/net.d", help="The runtime's CNI configuration directory."
)
@click.option("--kubeconfig", default="", help="The kubeconfig file of an agent that does not run in a pod.")
@click.option("--systemd", is_flag=True, help="Write a systemd unit for the agent.")
@_common_options
def install(*, systemd: bool, shim: Path | None, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Install wirespeed on this node.

    Puts the shim into the runtime's plugin directory, and writes a configuration file for the agent if there is
    none. Each step is printed. If one fails, the steps before it are undone. Idempotent.
    """
    common.check_dry_run_json(as_json=as_json, dry_run=dry_run)
    from wirespeed.agent.install import plan  # noqa: PLC0415 — see wirespeed.cli.main

    options = plan.Options(
        shim=shim or _bundled_file("wirespeed-cni"),
        unit=_bundled_file("wirespeed-agent.service") if systemd else None,
        command=_command(),
        **given,
    )
    _carry_out(plan.installation, options, dry_run=dry_run, as_json=as_json)


@click.command(
    context_settings={"show_default": True},
    epilog=common.examples("wirespeed uninstall --dry-run --json | jq -r '.steps[]'", "wirespeed uninstall"),
)
@_common_options
def uninstall(*, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Uninstall wirespeed from this node.

    Removes what install put there, except the agent's configuration file, and restores what it replaced. The agent
    must be stopped first.
    """
    common.check_dry_run_json(as_json=as_json, dry_run=dry_run)
    from wirespeed.agent.install import plan  # noqa: PLC0415 — see wirespeed.cli.main

    options = plan.Options(shim=Path(), **given)
    _carry_out(plan.removal, options, dry_run=dry_run, as_json=as_json)


@click.command(
    name="uninstall-nodes",
    context_settings={"show_default": True},
    epilog=common.examples(
        "wirespeed uninstall-nodes --namespace wirespeed --agents wirespeed-agent --removers wirespeed-uninstall"
    ),
)
@click.option("--namespace", required=True, help="The namespace of the DaemonSets.")
@click.option(
    "--agents", multiple=True, required=True, help="A DaemonSet that runs agents. May be given several times."
)
@click.option(
    "--removers",
    multiple=True,
    required=True,
    help="A DaemonSet that runs `wirespeed uninstall`. May be given several times.",
)
@click.option("--timeout", type=Duration(1), default="4m", help="The time for the whole command.")
@click.option("--kubeconfig", default="", help="The kubeconfig file, if this does not run in a pod.")
def uninstall_nodes(
    *, namespace: str, agents: tuple[str, ...], removers: tuple[str, ...], timeout: float, kubeconfig: str
) -> None:
    """Uninstall wirespeed from all nodes of a cluster, or none.

    The Helm chart runs this before it deletes a release. On each node, a pod of a DaemonSet of --removers runs
    `wirespeed uninstall --dry-run` in its first init container. After that has succeeded on every node, the agents
    are stopped, and the same DaemonSets run `wirespeed uninstall`.
    """
    import signal  # noqa: PLC0415 — see wirespeed.cli.main
    from contextlib import closing  # noqa: PLC0415
    from types import FrameType  # noqa: PLC0415

    from wirespeed.agent.install.nodes import Nodes  # noqa: PLC0415
    from wirespeed.kube.api import Api  # noqa: PLC0415

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the undo that has begun must not be interrupted
        raise KeyboardInterrupt  # not an Exception, so no retry of a request catches it

    signal.signal(signal.SIGTERM, end)
    try:
        with closing(Api(kubeconfig)) as api:
            nodes = Nodes(api, namespace, agents=agents, removers=removers, seconds=timeout)
            nodes.uninstall(click.echo)
    except KeyboardInterrupt as error:
        raise click.ClickException("stopped before all nodes were done") from error


def _carry_out(planned: Callable[[Options], Plan], options: Options, *, dry_run: bool, as_json: bool) -> None:
    """Show the plan; unless `dry_run`, carry it out."""
    import contextlib  # noqa: PLC0415 — see wirespeed.cli.main
    import os  # noqa: PLC0415

    from wirespeed.agent.install import plan as plans  # noqa: PLC0415
    from wirespeed.steps import carry_out  # noqa: PLC0415

    if os.geteuid() != 0:
        raise click.ClickException("expected root: this changes what the node runs as root")
    plan = planned(options)
    if dry_run:
        plan.notes += plan.cluster_notes()
        if as_json:
            click.echo(common.as_json(plan.shown()))
            return
        for step in plan.steps:
            click.echo(f"would {step.what}")
    elif plan.steps:
        with plans.no_agent(plan.config) if plan.without_agent else contextlib.nullcontext():
            carry_out(plan.steps, lambda _number, step: click.echo(step.what))
    if not plan.steps:
        click.echo("nothing to do")
    for note in plan.notes:
        click.echo(f"note: {note}")


def _bundled_file(name: str) -> Path:
    """Return a file that belongs to this program: installed with it, or in its source tree."""
    import sys  # noqa: PLC0415 — see wirespeed.cli.main

    sources = Path(__file__).parents[2]
    places = [Path(sys.prefix, "share/wirespeed"), sources / "build", sources / "deploy"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise click.ClickException(f"there is no {name} in {', '.join(map(str, places))}: is it built?")


def _command() -> str:
    """Return the path of this program, for the systemd unit."""
    import shutil  # noqa: PLC0415 — see wirespeed.cli.main
    import sys  # noqa: PLC0415

    return str(Path(shutil.which(sys.argv[0]) or sys.argv[0]).resolve())
