"""`wirespeed play`: Kubernetes manifests on this machine, with no cluster."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--cni-conf",
    type=click.Path(path_type=Path),
    default="/etc/cni/net.d",
    show_default=True,
    help="The CNI conf that a runtime would call for each pod: a file, or a folder whose first file it is.",
)
@click.option(
    "--cni-path",
    default="/opt/cni/bin:/usr/lib/cni",
    show_default=True,
    metavar="FOLDERS",
    help="Where plugins are that are executed.",
)
@click.option(
    "--cdi-path",
    default="/etc/cdi:/var/run/cdi",
    show_default=True,
    metavar="FOLDERS",
    help="Where CDI specifications are, the last counts most; those of the play's device plugin count more.",
)
@click.option(
    "--pools",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the device plugin offers, if no ConfigMap in FILES says it: the chart's values, with pools, or the "
    "device plugin's own configuration.",
)
@click.option(
    "--shim",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The shim's executable.  [default: build/wirespeed-cni of this checkout, or `wirespeed` in --cni-path]",
)
@click.option("--in-order", is_flag=True, help="Start each pod when the one before it is ready or has ended.")
@click.option(
    "--then",
    default="",
    metavar="COMMAND",
    help="A shell command to run once all pods are ready, or have ended well. PODS is a file that tells of them as "
    "`kubectl get pods -o json` does. The play ends with it, unless pods are to end by themselves.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End by then, with status 124.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for pods.json, as of the end, and the containers' output, "
    "logs/<namespace>_<pod>_<container>.log.",
)
@click.option("--logs/--no-logs", default=True, show_default=True, help="Show the containers' output.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="The least level of the agent's log that is shown.",
)
@click.pass_context
def play(ctx: click.Context, /, files: tuple[Path, ...], cni_path: str, cdi_path: str, **options: object) -> None:
    """Run the Pods of Kubernetes manifests on this machine, with no cluster.

    For demonstrations and tests: this is no production runtime. It stands where the kubelet, the container runtime
    and the API server stand, and speaks their protocols with this node's agent, which it starts: device plugin
    registration and allocation, pod-resources, CNI through the shim, network-status. Containers have namespaces and
    a /dev of their own and see this machine's file system, with what they write in it kept apart. They have the
    capabilities, users, memory and hugepages that they would have on a cluster. Images are not pulled: of theirs,
    containers have `wirespeed eal` and `wirespeed ready` alone.

    FILES hold Pods, NetworkAttachmentDefinitions and ConfigMaps; objects of kinds that have no effect here are
    named and passed over. Of a folder all *.yaml, *.yml and *.json files are taken, by name. A ConfigMap whose
    config.json has a resourceList is the device plugin's configuration, if --pools is not given.

    It runs until all pods that end by themselves have ended (restartPolicy OnFailure or Never), or until it is
    stopped, and takes everything back. The exit status is 0 only when all succeeded and nothing was left.
    """
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.cni.errors import CniError  # noqa: PLC0415

    options |= {"files": files, "cni_path": _folders(cni_path), "cdi_path": _folders(cdi_path)}
    try:
        extras.need("play", "wirespeed play")
        from rich.console import Console  # noqa: PLC0415

        from wirespeed.play.play import Options  # noqa: PLC0415
        from wirespeed.play.play import play as run  # noqa: PLC0415
        from wirespeed.play.screen import Terminal  # noqa: PLC0415

        asked = Options(**options)  # type: ignore[arg-type]
        ctx.exit(run(asked, Terminal(highlight=False), Console(stderr=True)))
    except CniError as error:
        raise click.ClickException(error.msg) from error


def _folders(text: str) -> tuple[str, ...]:
    return tuple(folder for folder in text.split(":") if folder)
