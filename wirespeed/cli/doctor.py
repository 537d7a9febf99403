"""`wirespeed doctor`: is this node fit for pods with line-rate interfaces, and is this pod fast?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wirespeed.cli import options

if TYPE_CHECKING:
    from wirespeed.doctor import Finding


@click.command(
    epilog=options.examples(
        "wirespeed doctor", "wirespeed doctor --pod shop/firewall", "wirespeed doctor --json > node.json"
    )
)
@click.option(
    "--pod", metavar="[NAMESPACE/]NAME", help="Check this pod of the node, too: its CPUs, memory and devices."
)
@click.option("--all", "everything", is_flag=True, help="Show the findings that are ok, too.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as a JSON list.")
@options.config()
@click.pass_context
def doctor(ctx: click.Context, *, pod: str | None, everything: bool, as_json: bool, config: Path | None) -> None:
    """Check whether this node is fit for pods with line-rate interfaces.

    Shows what is not as it should be, why it matters, and how to fix it: kernel and IOMMU, network cards and their
    slots, CPUs, hugepages, kubelet, CNI configuration, container runtime, virtual switches, permissions. What
    cannot be determined is shown as unknown, with the reason. Nothing is changed. Run it on the node as root, or in
    the agent's container.

    The exit status is 1 if there is a finding of severity error.
    """
    from contextlib import closing  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.doctor import examine  # noqa: PLC0415
    from wirespeed.node import Node, load_config  # noqa: PLC0415

    with closing(Node(load_config(config), once=True)) as node:
        findings = examine(node, pod)
    click.echo(options.as_json(findings) if as_json else text(findings, everything=everything, pod=pod is not None))
    ctx.exit(1 if has_error(findings) else 0)


def has_error(findings: Sequence[Finding]) -> bool:
    """Whether the exit status is to be 1."""
    return any(each.severity == "error" for each in findings)


def text(findings: Sequence[Finding], *, everything: bool, pod: bool) -> str:
    """Return the findings as text, with what holds if `everything`; `pod`: a pod was checked, too."""
    from wirespeed.doctor import Severity, applicable  # noqa: PLC0415 — see wirespeed.cli.main

    shown = [each for each in findings if everything or each.severity is not Severity.OK]
    # Those of another version, which an agent elsewhere may have, are counted as well.
    checks = {each.id for each in applicable(pod=pod)} | {each.id for each in findings}
    return "\n".join([*lines(shown), summary(findings, len(checks))])


_COLOURS = {"error": "red", "warning": "yellow", "unknown": "magenta", "info": "cyan", "ok": "green"}
_INDENT = " " * 10


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield findings by subject, the worst first, with colours, and on a terminal in lines of its width."""
    from wirespeed.doctor import Severity, Subject  # noqa: PLC0415 — see wirespeed.cli.main

    order = list(Severity)
    for subject in Subject:
        mine = [each for each in findings if each.subject is subject]
        if not mine:
            continue
        yield click.style(subject.value, bold=True)
        for finding in sorted(mine, key=lambda each: order.index(each.severity)):
            yield from map(_wrapped, _lines_of(finding))
        yield ""


def _lines_of(finding: Finding) -> Iterator[str]:
    mark = click.style(f"{finding.severity.value:8}", fg=_COLOURS[finding.severity])
    where = f" {finding.thing}:" if finding.thing else ""
    yield f"  {mark}{click.style(finding.id, bold=True)}:{where} {finding.found}"
    if finding.severity == "ok":
        return
    yield f"{_INDENT}expected: {finding.expected}"
    yield f"{_INDENT}why: {finding.why} [{finding.source}]"
    if finding.fix:
        yield f"{_INDENT}fix: {finding.fix}"


def _wrapped(line: str) -> str:
    """Return a line, for a terminal as several lines; a command in a pipe keeps its line."""
    import shutil  # noqa: PLC0415 — see wirespeed.cli.main
    import sys  # noqa: PLC0415
    import textwrap  # noqa: PLC0415

    if not sys.stdout.isatty():
        return line
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line, width, subsequent_indent=f"{_INDENT}  ", break_long_words=False, break_on_hyphens=False
    )


def summary(findings: Sequence[Finding], checks: int) -> str:
    """Count checks by their worst finding: "58 checks: 50 ok, 1 error, 3 warnings, 4 do not apply"."""
    from wirespeed.doctor import Severity  # noqa: PLC0415 — see wirespeed.cli.main

    order = list(Severity)
    worst: dict[str, int] = {}
    for finding in findings:
        rank = order.index(finding.severity)
        worst[finding.id] = min(rank, worst.get(finding.id, rank))
    errors, warnings, unknown, infos, fine = (list(worst.values()).count(rank) for rank in range(len(order)))
    counts = {
        "ok": fine,
        "error" if errors == 1 else "errors": errors,
        "warning" if warnings == 1 else "warnings": warnings,
        "info": infos,
        "unknown": unknown,
        "do not apply": checks - len(worst),
    }
    told = (f"{number} {name}" for name, number in counts.items() if number or name == "ok")
    return f"{checks} checks: {', '.join(told)}"
