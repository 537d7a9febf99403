"""`wirespeed play`: run Kubernetes manifests on this machine, without a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from wirespeed.cli import completion, options
from wirespeed.cli.durations import Duration


@click.command(
    epilog=options.examples(
        "wirespeed play pods.yaml networks.yaml",
        "wirespeed play manifests/ --pools pools.yaml --out result --timeout 60s",
        """wirespeed play manifests/ --then 'jq ".items | length" "$PODS"'""",
    )
)
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE…",
    type=click.Path(exists=True, path_type=Path),
    shell_complete=completion.files(".yaml", ".yml", ".json"),
)
@click.option(
    "--cni-conf",
    type=click.Path(path_type=Path),
    default="/etc/cni/net.d",
    show_default=True,
    help="The CNI configuration that a runtime would use for each pod: a file, or a directory, whose first file by "
    "name is used.",
)
@click.option(
    "--cni-path",
    default="/opt/cni/bin:/usr/lib/cni",
    show_default=True,
    metavar="FOLDERS",
    help="The directories of executable plugins.",
)
@click.option(
    "--cdi-path",
    default="/etc/cdi:/var/run/cdi",
    show_default=True,
    metavar="FOLDERS",
    help="The directories of CDI specifications; a later one takes precedence. The device plugin's own take "
    "precedence over all.",
)
@click.option(
    "--pools",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The device plugin's configuration, or values of the Helm chart with `pools`. Not allowed if "
    "a FILE has a ConfigMap with a device plugin configuration.",
)
@click.option(
    "--shim",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The shim's executable.  [default: build/wirespeed-cni of this checkout, or `wirespeed` in --cni-path]",
)
@click.option("--in-order", is_flag=True, help="Start each pod when the previous one is ready or has ended.")
@click.option(
    "--then",
    default="",
    metavar="COMMAND",
    help="A shell command to run when every pod is ready or has ended with success. Its variable PODS is the path "
    "of a file with the pods as `kubectl get pods -o json` prints them. When the command, and all pods that "
    "end by themselves, have ended, the other pods are stopped.",
)
@click.option(
    "--timeout",
    type=Duration(),
    help="Stop everything after this time, with exit status 124.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory for pods.json (the pods at the end) and the containers' output "
    "(logs/<namespace>_<pod>_<container>.log).",
)
@click.option("--logs/--no-logs", default=True, show_default=True, help="Print the containers' output.")
@options.log_level("warning", "The lowest level of the agent's log that is printed.")
@click.pass_context
def play(ctx: click.Context, /, files: tuple[Path, ...], cni_path: str, cdi_path: str, **options: object) -> None:
    """Run Kubernetes pods on this machine, without a cluster.

    For demonstrations and tests, not for production. It takes the place of the kubelet, the container runtime and
    the API server. It starts this node's agent and speaks with it as they do: device plugin registration and
    allocation, pod-resources, CNI calls of the shim, network-status. Containers have their own namespaces and /dev.
    They see this machine's file system; what they write outside of volumes is discarded. Their capabilities,
    users, memory and hugepages are as on a cluster. Images are not pulled; of their content, containers have only
    `wirespeed eal` and `wirespeed ready`.

    Each FILE is a file or a directory with Pods, NetworkAttachmentDefinitions and ConfigMaps. Objects of kinds
    without effect here are listed and ignored. In a directory, all *.yaml, *.yml and *.json files are read, sorted
    by name. A ConfigMap whose config.json has a resourceList is the device plugin's configuration.

    It runs until all pods with restartPolicy OnFailure or Never have ended, or until it is stopped. Then it
    removes everything that it created. The exit status is 0 only if all pods succeeded and nothing is left.
    """
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main

    extras.need("play", "wirespeed play")
    from rich.console import Console  # noqa: PLC0415

    from wirespeed.play.play import Options  # noqa: PLC0415
    from wirespeed.play.play import play as run  # noqa: PLC0415
    from wirespeed.play.screen import Terminal  # noqa: PLC0415

    options |= {"files": files, "cni_path": _folders(cni_path), "cdi_path": _folders(cdi_path)}
    asked = Options(**options)  # type: ignore[arg-type]
    ctx.exit(run(asked, Terminal(highlight=False), Console(stderr=True)))


def _folders(text: str) -> tuple[str, ...]:
    return tuple(folder for folder in text.split(":") if folder)
