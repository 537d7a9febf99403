"""`wirespeed vf`: list, create and remove the node's virtual functions, and bind drivers to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wirespeed.provision.facts import Pf, Vf
    from wirespeed.provision.plan import Plan

_CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The agent's configuration file, for finding out which VFs are in use.  "
    "[default: $WIRESPEED_CONFIG, or /etc/wirespeed/agent.yaml if it exists]",
)
_YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the plan, then exit.")


@click.group()
def vf() -> None:
    """List, create, remove and bind this node's VFs.

    A plan of all changes is shown first. VFs that a pod, a process or the host uses are never changed. If
    a step fails, the steps before it are undone.
    """


@vf.command("list")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, config: Path | None, as_json: bool) -> None:
    """Show the PFs and their VFs."""
    pfs = _reporting_errors(lambda: _facts(config))
    if as_json:
        click.echo(json.dumps([asdict(pf) for pf in pfs], indent=2))
    else:
        _show(pfs)


@vf.command()
@click.argument("pf")
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--driver",
    default="netdevice",
    show_default=True,
    help="The VFs' driver: netdevice for the kernel's network driver, or vfio-pci.",
)
@click.option(
    "--mtu", type=click.IntRange(68, 65535), help="The VFs' MTU. The PF's MTU is raised if it is smaller."
)
@_CONFIG
@_DRY_RUN
@_YES
def create(
    *, pf: str, number: int, driver: str, mtu: int | None, config: Path | None, dry_run: bool, yes: bool
) -> None:
    """Create NUMBER VFs on PF (its interface or PCI address).

    If PF has another number of VFs already, all of these are removed first. VFs in use are never removed.
    """
    from wirespeed.provision.policy import Group, Wanted  # noqa: PLC0415 — see wirespeed.cli.main

    def plan() -> Plan:
        pfs = _facts(config)
        found = _pf(pfs, pf)
        if number > found.total_vfs:
            raise click.UsageError(f"{found.where} offers {found.total_vfs} VFs, {number} are asked for")
        numbers = frozenset(range(number))
        group = Group(resource="", policy="", numbers=numbers, device_type=driver, mtu=mtu or 0)
        return _planned({found.address: Wanted(num_vfs=number, mtu=mtu or 0, groups=(group,))}, pfs, config)

    _carry_out(_reporting_errors(plan), config, dry_run=dry_run, yes=yes)


@vf.command()
@click.argument("pf")
@_CONFIG
@_DRY_RUN
@_YES
def destroy(*, pf: str, config: Path | None, dry_run: bool, yes: bool) -> None:
    """Remove all VFs of PF (its interface or PCI address)."""
    from wirespeed.provision.policy import Wanted  # noqa: PLC0415 — see wirespeed.cli.main

    def plan() -> Plan:
        pfs = _facts(config)
        return _planned({_pf(pfs, pf).address: Wanted(num_vfs=0)}, pfs, config)

    _carry_out(_reporting_errors(plan), config, dry_run=dry_run, yes=yes)


@vf.command()
@click.argument("vfs", nargs=-1, required=True)
@click.option(
    "--driver",
    required=True,
    help="netdevice for the kernel's network driver, or a userspace driver: vfio-pci, uio_pci_generic, ...",
)
@_CONFIG
@_DRY_RUN
@_YES
def bind(*, vfs: Sequence[str], driver: str, config: Path | None, dry_run: bool, yes: bool) -> None:
    """Bind VFS to a driver. Each is a PCI address, or a PF with VF numbers, such as ens1#0,2-5."""

    def plan() -> Plan:
        from wirespeed.provision.plan import bind_plan  # noqa: PLC0415 — see wirespeed.cli.main

        pfs = _facts(config)
        return bind_plan([each for name in vfs for each in _vfs(pfs, name)], driver, _sysfs(config))

    _carry_out(_reporting_errors(plan), config, dry_run=dry_run, yes=yes)


@vf.command()
@click.argument("policies", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of this node; may be given several times.",
)
@_CONFIG
@_DRY_RUN
@_YES
def apply(
    *, policies: Sequence[Path], labels: Sequence[str], config: Path | None, dry_run: bool, yes: bool
) -> None:
    """Create the VFs that node policies request.

    POLICIES are YAML or JSON files with SriovNetworkNodePolicy objects. A policy whose nodeSelector does not match
    the labels given is skipped. PFs that no policy selects are not changed. Idempotent.
    """
    from wirespeed.provision import policy  # noqa: PLC0415 — see wirespeed.cli.main

    given = dict(label.partition("=")[::2] for label in labels)

    def plan() -> Plan:
        loaded = policy.load(policies, say=click.echo)
        mine = policy.for_node(loaded, given)
        for other in loaded:
            if other not in mine:
                click.echo(f"policy {other.name}: its nodeSelector {other.spec.node_selector} is another node's")
        pfs = _facts(config)
        return _planned(policy.merge(mine, [pf.identity for pf in pfs]), pfs, config)

    _carry_out(_reporting_errors(plan), config, dry_run=dry_run, yes=yes)


# The node


def _reporting_errors(function: Callable[[], Any]) -> Any:
    """Call the function; turn its CniError or OSError into a one-line error of the command."""
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.cni.errors import CniError  # noqa: PLC0415

    try:
        extras.need("provision", "wirespeed vf")
        return function()
    except CniError as error:
        raise click.ClickException(error.msg) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _sysfs(config: Path | None) -> Path:
    from wirespeed.node import load_config  # noqa: PLC0415 — see wirespeed.cli.main

    return Path(load_config(config).sysfs)


def _facts(config: Path | None) -> list[Pf]:
    from wirespeed.node import load_config  # noqa: PLC0415
    from wirespeed.provision import facts, owners  # noqa: PLC0415 — see wirespeed.cli.main

    loaded = load_config(config)
    return facts.read(Path(loaded.sysfs), owners=owners.owners(loaded))


def _planned(wanted: dict[str, Any], pfs: Sequence[Pf], config: Path | None) -> Plan:
    from wirespeed.provision import plan  # noqa: PLC0415 — see wirespeed.cli.main

    return plan.make(wanted, pfs, _sysfs(config))


def _pf(pfs: Sequence[Pf], name: str) -> Pf:
    from wirespeed.provision.facts import find  # noqa: PLC0415 — see wirespeed.cli.main

    found = find(pfs, name)
    if found is None:
        known = ", ".join(pf.name or pf.address for pf in pfs) or "none"
        raise click.UsageError(f"no PF {name!r} on this node; there are: {known}")
    return found


def _vfs(pfs: Sequence[Pf], name: str) -> list[tuple[Pf, Vf]]:
    from wirespeed.provision.policy import vf_numbers  # noqa: PLC0415 — see wirespeed.cli.main

    of_address = [(pf, each) for pf in pfs for each in pf.vfs if each.address == name]
    if of_address:
        return of_address
    pf_name, hash_sign, numbers = name.partition("#")
    if not hash_sign:
        raise click.UsageError(f"no VF {name!r} on this node; expected a PCI address, or a PF like ens1#0,2-5")
    pf = _pf(pfs, pf_name)
    try:
        wanted = vf_numbers(numbers)
    except ValueError as error:
        raise click.UsageError(f"{name!r}: {error}") from error
    if missing := wanted - {each.index for each in pf.vfs}:
        raise click.UsageError(f"{pf.where} has {len(pf.vfs)} VFs: there is no VF {min(missing)}")
    return [(pf, each) for each in pf.vfs if each.index in wanted]


# Output


def _carry_out(plan: Plan, config: Path | None, *, dry_run: bool, yes: bool) -> None:
    """Show the plan, ask for confirmation, and carry it out."""
    from wirespeed.node import load_config  # noqa: PLC0415
    from wirespeed.provision.plan import carry_out  # noqa: PLC0415 — see wirespeed.cli.main

    for change in plan.changes if not plan.refused else ():
        click.echo(change.what)
    if plan.refused:
        raise click.ClickException("\n".join(["nothing is changed:", *plan.refused]))
    if not plan.changes:
        click.echo("nothing to do")
        return
    if dry_run:
        return
    if not yes:
        click.confirm(f"{len(plan.changes)} steps: go on?", abort=True)
    node = _reporting_errors(lambda: load_config(config))
    _reporting_errors(lambda: _with_progress(lambda progress: carry_out(plan, node, progress), len(plan.changes)))


def _with_progress(work: Callable[[Callable[[int, Any], None]], None], count: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 — see wirespeed.cli.main

    with Progress(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), transient=True) as shown:
        task = shown.add_task("", total=count)
        work(lambda number, step: shown.update(task, completed=number, description=step.what))
        shown.update(task, completed=count)
    click.echo("done")


def _show(pfs: Sequence[Pf]) -> None:
    from rich.console import Console  # noqa: PLC0415 — see wirespeed.cli.main
    from rich.table import Table  # noqa: PLC0415

    if not pfs:
        click.echo("this node has no PF with SR-IOV")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("FUNCTION", "ADDRESS", "DRIVER", "INTERFACE", "MAC", "MTU", "NUMA", "IOMMU"):
        table.add_column(column, no_wrap=True)
    table.add_column("USED BY", overflow="fold")
    for pf in pfs:
        state = f"{len(pf.vfs)} of {pf.total_vfs} VFs, {'up' if pf.up else 'down'}, {pf.eswitch}"
        state += f", {pf.model}" if pf.model else ""
        table.add_row(
            f"PF {pf.name}", pf.address, pf.driver, pf.name, "", _number(pf.mtu), _numa(pf.numa_node), "", state
        )
        for each in pf.vfs:
            table.add_row(
                f"  VF {each.index}",
                each.address,
                each.driver or "none",
                each.netdev,
                each.mac,
                _number(each.mtu),
                _numa(each.numa_node),
                each.iommu_group,
                each.user,
            )
    Console().print(table)


def _number(value: int) -> str:
    return str(value) if value else ""


def _numa(node: int) -> str:
    return str(node) if node >= 0 else ""
