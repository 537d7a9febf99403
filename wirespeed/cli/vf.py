"""`wirespeed vf`: list, create and remove the node's virtual functions, and bind drivers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirespeed.cli import completion, options

if TYPE_CHECKING:
    from wirespeed.provision.facts import Pf, VfFacts
    from wirespeed.provision.listing import ListedPf
    from wirespeed.provision.plan import Plan

_CONFIG = options.config("The agent's configuration file, for finding out which VFs are in use")
_YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the plan, then exit.")
_PF = click.argument("pf", shell_complete=completion.pfs)


@click.group()
def vf() -> None:
    """List, create, remove and bind this node's VFs.

    A plan of all changes is shown first. VFs that a pod, a process or the host uses are never changed. If
    a step fails, the steps before it are undone.
    """


@vf.command(
    "list",
    epilog=options.examples(
        "wirespeed vf list", "wirespeed vf list --json | jq -r '.[].vfs[] | select(.user == \"\") | .address'"
    ),
)
@_CONFIG
@options.AS_JSON
def list_(*, config: Path | None, as_json: bool) -> None:
    """Show the PFs and their VFs."""
    with _on_node():
        from wirespeed.provision.listing import listed  # noqa: PLC0415 — see wirespeed.cli.main

        pfs = [*map(listed, _facts(config))]
    if as_json:
        click.echo(options.as_json(pfs))
    else:
        _show(pfs)


@vf.command(
    epilog=options.examples(
        "wirespeed vf create ens1 4",
        "wirespeed vf create ens1 4 --driver vfio-pci --dry-run",
        "wirespeed vf create 0000:18:00.0 8 --mtu 9000 --yes",
    )
)
@_PF
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--driver",
    default="netdevice",
    show_default=True,
    shell_complete=completion.words("netdevice", "vfio-pci"),
    help="The VFs' driver: netdevice for the kernel's network driver, or vfio-pci.",
)
@click.option(
    "--mtu", type=click.IntRange(68, 65535), help="The VFs' MTU. The PF's MTU is raised if it is smaller."
)
@_CONFIG
@_DRY_RUN
@options.DRY_RUN_JSON
@_YES
def create(
    *,
    pf: str,
    number: int,
    driver: str,
    mtu: int | None,
    config: Path | None,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    """Create NUMBER VFs on PF (its interface or PCI address).

    If PF has another number of VFs already, all of these are removed first. VFs in use are never removed.
    """
    from wirespeed.provision.policy import Group, Wanted  # noqa: PLC0415 — see wirespeed.cli.main

    with _on_node():
        pfs = _facts(config)
        found = _pf(pfs, pf)
        if number > found.total_vfs:
            raise click.UsageError(f"{found.where}: expected at most {found.total_vfs} VFs, got {number}")
        numbers = frozenset(range(number))
        group = Group(resource="", numbers=numbers, device_type=driver, mtu=mtu or 0)
        plan = _make_plan({found.address: Wanted(num_vfs=number, mtu=mtu or 0, groups=(group,))}, pfs, config)
    _carry_out(plan, config, dry_run=dry_run, as_json=as_json, yes=yes)


@vf.command(epilog=options.examples("wirespeed vf destroy ens1"))
@_PF
@_CONFIG
@_DRY_RUN
@options.DRY_RUN_JSON
@_YES
def destroy(*, pf: str, config: Path | None, dry_run: bool, as_json: bool, yes: bool) -> None:
    """Remove all VFs of PF (its interface or PCI address)."""
    from wirespeed.provision.policy import Wanted  # noqa: PLC0415 — see wirespeed.cli.main

    with _on_node():
        pfs = _facts(config)
        plan = _make_plan({_pf(pfs, pf).address: Wanted(num_vfs=0)}, pfs, config)
    _carry_out(plan, config, dry_run=dry_run, as_json=as_json, yes=yes)


@vf.command(
    epilog=options.examples(
        "wirespeed vf bind 'ens1#0,2-5' --driver vfio-pci",
        "wirespeed vf bind 0000:19:00.1 --driver netdevice --yes",
    )
)
@click.argument("vfs", nargs=-1, required=True, shell_complete=completion.vfs)
@click.option(
    "--driver",
    required=True,
    shell_complete=completion.words("netdevice", "vfio-pci"),
    help="netdevice for the kernel's network driver, or a userspace driver: vfio-pci, uio_pci_generic, ...",
)
@_CONFIG
@_DRY_RUN
@options.DRY_RUN_JSON
@_YES
def bind(*, vfs: Sequence[str], driver: str, config: Path | None, dry_run: bool, as_json: bool, yes: bool) -> None:
    """Bind VFS to a driver. Each is a PCI address, or a PF with VF numbers, such as ens1#0,2-5."""
    with _on_node():
        from wirespeed.provision.plan import bind_plan  # noqa: PLC0415 — see wirespeed.cli.main

        pfs = _facts(config)
        plan = bind_plan([each for name in vfs for each in _vfs(pfs, name)], driver, _sysfs(config))
    _carry_out(plan, config, dry_run=dry_run, as_json=as_json, yes=yes)


@vf.command(
    epilog=options.examples(
        "wirespeed vf apply policies.yaml --dry-run",
        "wirespeed vf apply policies.yaml --label feature.node.kubernetes.io/network-sriov.capable=true --yes",
    )
)
@click.argument(
    "policies",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    shell_complete=completion.files(".yaml", ".yml", ".json"),
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of this node; may be given several times.",
)
@_CONFIG
@_DRY_RUN
@options.DRY_RUN_JSON
@_YES
def apply(
    *, policies: Sequence[Path], labels: Sequence[str], config: Path | None, dry_run: bool, as_json: bool, yes: bool
) -> None:
    """Create the VFs that node policies request.

    POLICIES are YAML or JSON files with SriovNetworkNodePolicy objects. A policy whose nodeSelector does not match
    the labels given is skipped. PFs that no policy selects are not changed. Idempotent.
    """
    from wirespeed.provision import policy  # noqa: PLC0415 — see wirespeed.cli.main

    notes: list[str] = []
    say = notes.append if as_json else click.echo
    given = dict(label.partition("=")[::2] for label in labels)
    with _on_node():
        loaded = policy.load(policies, on_skip=say)
        mine = policy.for_node(loaded, given)
        for other in loaded:
            if other not in mine:
                say(f"policy {other.name}: its nodeSelector {other.spec.node_selector} is another node's")
        pfs = _facts(config)
        plan = _make_plan(policy.merge(mine, pfs), pfs, config)
    _carry_out(plan, config, dry_run=dry_run, as_json=as_json, yes=yes, notes=notes)


# The node


@contextmanager
def _on_node() -> Iterator[None]:
    """For what needs the packages of the extra. Raises Error, also instead of an OSError."""
    from wirespeed import extras  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.errors import os_errors  # noqa: PLC0415

    extras.need("provision", "wirespeed vf")
    with os_errors():
        yield


def _sysfs(config: Path | None) -> Path:
    from wirespeed.node import load_config  # noqa: PLC0415 — see wirespeed.cli.main

    return Path(load_config(config).sysfs)


def _facts(config: Path | None) -> list[Pf]:
    from wirespeed.node import load_config  # noqa: PLC0415
    from wirespeed.provision import facts, owners  # noqa: PLC0415 — see wirespeed.cli.main

    loaded = load_config(config)
    return facts.read(Path(loaded.sysfs), owners=owners.owners(loaded))


def _make_plan(wanted: dict[str, Any], pfs: Sequence[Pf], config: Path | None) -> Plan:
    from wirespeed.provision import plan  # noqa: PLC0415 — see wirespeed.cli.main

    return plan.make(wanted, pfs, _sysfs(config))


def _pf(pfs: Sequence[Pf], name: str) -> Pf:
    from wirespeed.provision.facts import find  # noqa: PLC0415 — see wirespeed.cli.main

    found = find(pfs, name)
    if found is None:
        known = ", ".join(pf.name or pf.address for pf in pfs) or "none"
        raise click.UsageError(f"no PF {name!r} on this node; there are: {known}")
    return found


def _vfs(pfs: Sequence[Pf], name: str) -> list[tuple[Pf, VfFacts]]:
    from wirespeed.provision.policy import vf_numbers  # noqa: PLC0415 — see wirespeed.cli.main

    of_address = [(pf, each) for pf in pfs for each in pf.vfs if each.device.address == name]
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
    if missing := wanted - {each.state.index for each in pf.vfs}:
        raise click.UsageError(f"{pf.where} has {len(pf.vfs)} VFs: there is no VF {min(missing)}")
    return [(pf, each) for each in pf.vfs if each.state.index in wanted]


# Output


def _carry_out(
    plan: Plan, config: Path | None, *, dry_run: bool, as_json: bool, yes: bool, notes: Sequence[str] = ()
) -> None:
    """Show the plan, ask for confirmation, and carry it out."""
    options.check_dry_run_json(as_json=as_json, dry_run=dry_run)
    if plan.refused:
        raise click.ClickException("\n".join(["nothing is changed:", *(error.msg for error in plan.refused)]))
    if as_json:
        from wirespeed.steps import ShownPlan  # noqa: PLC0415 — see wirespeed.cli.main

        click.echo(options.as_json(ShownPlan([change.what for change in plan.changes], notes)))
        return
    for change in plan.changes:
        click.echo(change.what)
    if not plan.changes:
        click.echo("nothing to do")
        return
    if dry_run:
        return
    if not yes:
        click.confirm(f"{len(plan.changes)} steps: go on?", abort=True)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.node import load_config  # noqa: PLC0415
    from wirespeed.provision.plan import carry_out  # noqa: PLC0415

    shown = Progress(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), transient=True)
    with _on_node(), shown:
        task = shown.add_task("", total=len(plan.changes))
        carry_out(
            plan,
            load_config(config),
            lambda number, step: shown.update(task, completed=number, description=step.what),
        )
        shown.update(task, completed=len(plan.changes))
    click.echo("done")


def _show(pfs: Sequence[ListedPf]) -> None:
    from rich.table import Table  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cli.output import show_table  # noqa: PLC0415

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
            f"PF {pf.name}", pf.address, pf.driver, pf.name, "", str(pf.mtu or ""), _numa(pf.numa_node), "", state
        )
        for each in pf.vfs:
            table.add_row(
                f"  VF {each.index}",
                each.address,
                each.driver or "none",
                each.netdev,
                each.mac,
                str(each.mtu or ""),
                _numa(each.numa_node),
                each.iommu_group,
                each.user,
            )
    show_table(table)


def _numa(node: int) -> str:
    return str(node) if node >= 0 else ""
