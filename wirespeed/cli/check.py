"""`wirespeed check`: check configurations and manifests before anything uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import completion, options

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


@click.command(
    epilog=options.examples(
        "wirespeed check /etc/cni/net.d /etc/wirespeed manifests/",
        "wirespeed check --strict -R deploy/ --format json",
        "helm template chart | wirespeed check /dev/stdin",
        "wirespeed check --schema networks > networks.schema.json",
    )
)
@click.argument(
    "files",
    nargs=-1,
    metavar="FILE...",
    type=click.Path(exists=True, readable=True, path_type=Path),
    shell_complete=completion.files(".yaml", ".yml", ".json", ".conf", ".conflist"),
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="One line per finding, or a JSON list of objects.",
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("-R", "--recursive", is_flag=True, help="Read subdirectories too.")
@click.option(
    "--node/--no-node",
    default=None,
    help="Check that the plugins' executables are on this machine, in the agent's binDir (/opt/cni/bin).  "
    "[default: on if the agent's configuration file and that directory exist here]",
)
@click.option(
    "--bin-dir",
    "bin_dirs",
    multiple=True,
    type=click.Path(file_okay=False),
    help="Check that the plugins' executables are in this directory, not in binDir. May be given several times.",
)
@click.option("--schema", type=click.Choice(SCHEMAS), help="Print the JSON Schema of a configuration, then exit.")
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
    """Check configurations and manifests without a cluster.

    FILE is a file, or a directory whose *.yaml, *.yml, *.json, *.conf and *.conflist files are checked. The
    content of a document determines what it is: a CNI configuration or list, a Kubernetes manifest
    (NetworkAttachmentDefinitions, pods and workloads with a pod template, ConfigMaps, the SR-IOV operator's
    policies and networks, KubeVirt's virtual machines), the configuration of the agent, of the device plugin or of
    Multus' daemon, or values of the Helm chart, of which only the pools are checked. Each is read by the code that
    reads it for a pod, for `wirespeed play` or for `wirespeed vf apply`; what that code rejects is an error.
    Objects of other kinds are only counted, at the end.

    Nothing is changed. The exit status is 1 if there are errors.
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
    shown = [
        {
            "file": str(path),
            "line": finding.line,
            "level": "error" if finding.error or strict else "warning",
            "message": finding.text,
        }
        for path, finding in report.findings
    ]
    if form == "json":
        click.echo(json.dumps(shown, indent=2))
    else:
        for each in shown:
            click.echo("{file}:{line}: {level}: {message}".format_map(each))
        click.echo(_summary(report, errors), err=True)
    ctx.exit(1 if errors else 0)


def _bin_dirs(node: bool | None) -> tuple[str, ...]:
    """Return the directories to search for plugins' executables; none with --no-node, or if this is not a node."""
    from wirespeed.errors import Error  # noqa: PLC0415
    from wirespeed.node import config_path, load_config  # noqa: PLC0415
    from wirespeed.plugins.meta.config import MetaConfig  # noqa: PLC0415 — see wirespeed.cli.main

    if node is False:
        return ()
    try:
        autoconf = load_config().autoconf
    except Error:
        if node:
            raise
        return ()
    folder = (autoconf.meta.get("binDir") if autoconf else None) or MetaConfig().bin_dir
    is_node = config_path().exists() and Path(folder).is_dir()
    return (folder,) if node or is_node else ()


def _summary(report: Report, errors: int) -> str:
    warnings = len(report.findings) - errors
    others = ", ".join(f"{number} {kind}" for kind, number in sorted(report.others.items()))
    counts = f"{_plural(report.documents, 'document')}: {_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
    return f"{counts}; not read: {others}" if others else counts


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
