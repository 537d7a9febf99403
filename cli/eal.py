"""`wirespeed eal`: the arguments of a DPDK application in the pod that this runs in."""

from __future__ import annotations

import click


@click.command()
@click.option("--podinfo", default="/etc/podnetinfo", show_default=True, help="Where the Downward API is mounted.")
@click.option(
    "--sockets", multiple=True, metavar="PATH", help="A folder with sockets, or a file configData-*.json in one."
)
@click.option("--cores", type=click.IntRange(0), default=0, help="How many of the container's CPUs; 0 is all.")
@click.option("--memory", type=click.IntRange(0), help="MiB of hugepages, instead of the container's limit.")
@click.option("--file-prefix", default="", help="Instead of one made of the pod's and the container's name.")
@click.option("--json", "as_json", is_flag=True, help="The pod's interfaces as JSON, instead of arguments.")
def eal(
    *, podinfo: str, sockets: tuple[str, ...], cores: int, memory: int | None, file_prefix: str, as_json: bool
) -> None:
    """Print the arguments of DPDK's EAL for this pod's interfaces, CPUs and hugepages, on one line.

    \b
    dpdk-testpmd $(wirespeed eal) -- --forward-mode=io --auto-start

    VFs come from PCIDEVICE_* and network-status, vhost-user and memif sockets from network-status, from the
    annotations userspace/*, and from the files beside the sockets. A socket that the application shall listen on,
    and that one which was killed has left there, is removed.
    """
    import json  # noqa: PLC0415 — see cli.main
    from dataclasses import asdict  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from wirespeed import eal as library  # noqa: PLC0415

    sources = library.Sources(podinfo=Path(podinfo), sockets=tuple(map(Path, sockets)))
    if as_json:
        click.echo(json.dumps([asdict(interface) for interface in library.interfaces(sources)], indent=2))
        return
    try:
        library.remove_stale(library.interfaces(sources))
        click.echo(" ".join(library.arguments(sources, cores=cores, memory=memory, file_prefix=file_prefix)))
    except (library.EalError, OSError) as error:
        raise click.ClickException(str(error)) from error
