"""`wirespeed check`: configurations and manifests, checked before anything runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wirespeed.cli.checks.files import Report

SCHEMAS = (
    "agent",
    "meta",
    "networks",
    "sriov",
    "vhost",
    "host-local",
    "static",
    "device-plugin",
    "node-policy",
)


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(exists=True, readable=True, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="One line for each finding, or a JSON list of objects.",
)
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.option("-R", "--recursive", is_flag=True, help="Read the folders in a folder too.")
@click.option(
    "--node/--no-node",
    default=None,
    help="Look for the executables of plugins on this machine, in the agent's binDir (/opt/cni/bin).  "
    "[default: if the agent's configuration and that folder are here]",
)
@click.option(
    "--bin-dir",
    "bin_dirs",
    multiple=True,
    type=click.Path(file_okay=False),
    help="Look for the executables of plugins in this folder; may be given several times.",
)
@click.option("--schema", type=click.Choice(SCHEMAS), help="Show the JSON Schema of a configuration instead.")
@click.pass_context
def check(
    ctx: click.Context,
    files: tuple[Path, ...],
    form: str,
    *,
    strict: bool,
    recursive: bool,
    node: bool | None,
    bin_dirs: tuple[str, ...],
    schema: str | None,
) -> None:
    """Check files without a cluster and without changing anything.

    FILE is a file, or a folder with *.yaml, *.yml, *.json, *.conf and *.conflist files. What a file is, its
    content says: CNI configurations and lists, Kubernetes manifests (NetworkAttachmentDefinitions, pods and what
    makes pods, ConfigMaps, the SR-IOV operator's policies and networks, KubeVirt's virtual machines), the
    configurations of the agent, of the device plugin and of Multus' daemon. They are read by the code that reads
    them for a pod, for `wirespeed play` and for `wirespeed vf apply`, and what it would refuse is an error.
    Objects of other kinds are counted at the end.

    The exit status is 1 if there are errors.
    """
    if schema:
        from wirespeed.cli.checks import schemas  # noqa: PLC0415 — see wirespeed.cli.main

        click.echo(json.dumps(schemas.schema(schema), indent=2))
        return
    if not files:
        raise click.UsageError("Missing argument 'FILE...'.")
    from wirespeed.cli.checks import files as checks  # noqa: PLC0415

    report = checks.check(files, search=bin_dirs or _bin_dirs(node), recursive=recursive)
    errors = sum(finding.error or strict for _, finding in report.findings)
    (_as_json if form == "json" else _as_text)(report, strict=strict)
    ctx.exit(1 if errors else 0)


def _bin_dirs(node: bool | None) -> tuple[str, ...]:
    """Where this node's plugins are; none where this machine is no node, or shall not be looked at."""
    from wirespeed.cni.errors import CniError  # noqa: PLC0415
    from wirespeed.node import config_path, load_config  # noqa: PLC0415
    from wirespeed.plugins.meta.config import MetaConfig  # noqa: PLC0415 — see wirespeed.cli.main

    if node is False:
        return ()
    try:
        autoconf = load_config().autoconf
    except CniError as error:
        if node:
            raise click.ClickException(error.msg) from error
        return ()
    folder = (autoconf.meta.get("binDir") if autoconf else None) or MetaConfig().bin_dir
    here = config_path().exists() and Path(folder).is_dir()
    return (folder,) if node or here else ()


def _as_text(report: Report, *, strict: bool) -> None:
    for path, finding in report.findings:
        click.echo(f"{path}:{finding.line}: {_level(finding.error or strict)}: {finding.text}")
    errors = sum(finding.error or strict for _, finding in report.findings)
    warnings = len(report.findings) - errors
    others = ", ".join(f"{number} {kind}" for kind, number in sorted(report.others.items()))
    click.echo(
        f"{_counted(report.documents, 'document')}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
        + (f"; not read: {others}" if others else ""),
        err=True,
    )


def _as_json(report: Report, *, strict: bool) -> None:
    findings = [
        {
            "file": str(path),
            "line": finding.line,
            "level": _level(finding.error or strict),
            "message": finding.text,
        }
        for path, finding in report.findings
    ]
    click.echo(json.dumps(findings, indent=2))


def _level(error: bool) -> str:
    return "error" if error else "warning"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
