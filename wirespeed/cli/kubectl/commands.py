"""The program `kubectl-wirespeed`, which kubectl runs for `kubectl wirespeed`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from wirespeed.cli import options
from wirespeed.cli.kubectl import completion
from wirespeed.cli.kubectl.connection import connected, connected_session
from wirespeed.cli.kubectl.measure import measure
from wirespeed.cli.main import Program, show_version
from wirespeed.cli.top import SORT_KEYS
from wirespeed.cli.watch import repeat, watch_option

if TYPE_CHECKING:
    from wirespeed.cli.kubectl.session import AgentPod, Caller, Session

_AT_ONCE = 8  # nodes that are asked at the same time
_JSON_OF_POD = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; with --watch, one document a line."
)
_JSON_OF_NODES = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; without NODE or with --watch, one document a line."
)
_NODE = click.argument("node", required=False, shell_complete=completion.nodes)


@click.group(cls=Program, name="kubectl wirespeed", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and the supported CNI versions, then exit.",
)
def program() -> None:
    """Ask the wirespeed agents of a cluster's nodes, as kubectl does.

    The agents answer as `wirespeed` does on their nodes. A connection to them goes through the API server, as that
    of `kubectl port-forward`. They check the caller's token: who may get a node sees what is on it, who may get a
    pod sees what happened to it. The chart's value web.enabled=true makes the agents answer.
    `measure` needs no such answers: it runs a command in the agent's container.

    The exit status is 0 for success, 1 for an error, 2 for a wrong command line.
    """


program.add_command(measure)


def main() -> None:
    program(prog_name="kubectl wirespeed")


@program.command(epilog=options.examples("kubectl wirespeed status node1 --watch"))
@_NODE
@_JSON_OF_NODES
@watch_option
@connected
@click.pass_context
def status(ctx: click.Context, *, caller: Caller, node: str | None, as_json: bool, watch: bool) -> None:
    """Show the state of NODE, or of all nodes with an agent.

    The agent and its running calls; the pools with their free, given and unhealthy devices; the pods' interfaces
    and what is wrong with them; the last errors. Times are in UTC.
    """
    from wirespeed.observe.lines import status_lines  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.observe.status import Status  # noqa: PLC0415

    view = _View("status", Status, lambda found: "\n".join(status_lines(found)), heading=False)
    _show(ctx, caller, node, view, as_json=as_json, watch=watch)


@program.command(epilog=options.examples("kubectl wirespeed topology node1", "kubectl wirespeed topology --json"))
@_NODE
@_JSON_OF_NODES
@watch_option
@connected
@click.pass_context
def topology(ctx: click.Context, *, caller: Caller, node: str | None, as_json: bool, watch: bool) -> None:
    """Show which pod has which device of NODE, or of all nodes with an agent.

    PFs with their VFs and scalable functions, by NUMA node, and the bridges with the vhost-user and memif ports of
    pods.
    """
    from wirespeed.cli.topology import text  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.observe.layout import Topology  # noqa: PLC0415

    _show(ctx, caller, node, _View("topology", Topology, text), as_json=as_json, watch=watch)


@program.command(epilog=options.examples("kubectl wirespeed top node1 --sort rx-bits --watch"))
@_NODE
@click.option(
    "--sort", type=click.Choice(SORT_KEYS), default="port", show_default=True, help="The column to sort by."
)
@_JSON_OF_NODES
@watch_option
@connected
@click.pass_context
def top(ctx: click.Context, *, caller: Caller, node: str | None, sort: str, as_json: bool, watch: bool) -> None:
    """Show the rates of VFs and vhost-user ports of NODE, or of all nodes with an agent.

    Packets, bits, drops and errors per second, as the pod receives (RX) and sends (TX) them: over half a second, or
    since the agent was asked before, if that was less than 10 seconds ago.
    """
    from wirespeed.observe import ratetable  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.observe.rates import Interval  # noqa: PLC0415

    view = _View("rates", Interval, lambda found: "\n".join(ratetable.table(found, sort)))
    _show(ctx, caller, node, view, as_json=as_json, watch=watch)


@program.command(
    epilog=options.examples("kubectl wirespeed doctor", "kubectl wirespeed doctor --pod shop/firewall")
)
@_NODE
@click.option(
    "--pod", metavar="[NAMESPACE/]NAME", help="Check this pod and its node.", shell_complete=completion.pods
)
@click.option("--all", "everything", is_flag=True, help="Show what holds, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; without NODE or --pod, one document a line.")
@connected
@click.pass_context
def doctor(
    ctx: click.Context, *, caller: Caller, node: str | None, pod: str | None, everything: bool, as_json: bool
) -> None:
    """Check whether NODE, or each node with an agent, is fit for pods with line-rate interfaces.

    Shows what is not as it should be, why it matters, and the command that mends it; run that on the node. Nothing
    is changed.

    The exit status is 1 if there is a finding of severity error.
    """
    from wirespeed.cli.doctor import has_error, text  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.doctor import Finding  # noqa: PLC0415

    view = _View(
        "doctor",
        list[Finding],
        lambda found: text(found, everything=everything, pod=pod is not None),
        failed=has_error,
    )
    if pod is not None:
        with connected_session(caller) as session:
            label = session.label(pod)
            bound = _node_of(session, label)
        if node not in {None, bound}:
            raise click.UsageError(f"pod {label} is on node {bound}, not on {node}")
        node, view = bound, view._replace(arguments={"pod": label})
    _show(ctx, caller, node, view, as_json=as_json)


@program.command(
    epilog=options.examples("kubectl wirespeed why shop/firewall", "kubectl wirespeed why -n shop firewall")
)
@click.argument("pod", shell_complete=completion.pods)
@_JSON_OF_POD
@watch_option
@connected
def why(*, caller: Caller, pod: str, as_json: bool, watch: bool) -> None:
    """Show what happened to POD: why it is stuck, or how it was attached.

    POD is [<namespace>/]<name>. Shows the error and what to do about it, the networks that the pod asks for, and
    each step of its last call with its begin and its length. If the pod is on no node, or no agent can be asked
    there, it shows what the API server alone tells: the pod's conditions, the devices that it asks for and which
    node offers how many, and the last warnings. Times are in UTC.
    """
    from wirespeed.cli.kubectl import pods  # noqa: PLC0415 — see wirespeed.cli.main
    from wirespeed.observe.lines import why_lines  # noqa: PLC0415

    with connected_session(caller) as session:
        label = session.label(pod)

        def show() -> str:
            found = pods.why(session, label)
            if as_json:
                return _json(found, compact=watch)
            return "\n".join(pods.lines(found) if isinstance(found, pods.FromApi) else why_lines(found))

        if watch:
            repeat(show, as_json=as_json)
        else:
            click.echo(show())


class _View(NamedTuple):
    """A view of a node: its name, its type, and how it is shown. `failed` tells whether the exit status is 1."""

    name: str
    kind: Any
    text: Callable[[Any], str]
    heading: bool = True
    """whether the text needs a line with the node's name, if it is one of several"""
    failed: Callable[[Any], bool] = lambda _: False
    arguments: dict[str, str] = {}  # noqa: RUF012 — never changed


class _Answer(NamedTuple):
    """What one node answered: the view, or the error."""

    node: str
    found: Any
    error: str = ""


def _node_of(session: Session, label: str) -> str:
    """Return the node of a pod. Raises Error if it is on none."""
    from wirespeed.errors import Error, Kind, Thing  # noqa: PLC0415 — see wirespeed.cli.main

    bound: str = (session.pod(label).get("spec") or {}).get("nodeName") or ""
    if not bound:
        hint = f"`kubectl wirespeed why {label}` says why"
        raise Error(Kind.NOT_ATTACHED, "it is on no node", where=Thing("pod", label), hint=hint)
    return bound


def _show(
    ctx: click.Context, caller: Caller, node: str | None, view: _View, *, as_json: bool, watch: bool = False
) -> None:
    """Show a view of one node, or of all; end with status 1 if one of them failed."""
    failed = False
    with connected_session(caller) as session:

        def show() -> str:
            nonlocal failed
            if node is not None:
                found = session.view(session.agent(node), view.name, view.kind, **view.arguments)
                failed = view.failed(found)
                return _json(found, compact=watch) if as_json else view.text(found)
            answers = _ask_all(session, view)
            failed = any(each.error or view.failed(each.found) for each in answers)
            return "\n".join(map(_json_line, answers)) if as_json else _texts(answers, view)

        if watch:
            repeat(show, as_json=as_json)
        else:
            click.echo(show())
    ctx.exit(1 if failed else 0)


def _ask_all(session: Session, view: _View) -> list[_Answer]:
    """Ask all agents, some at the same time; return their answers by the nodes' names."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.errors import Error  # noqa: PLC0415

    def ask(agent: AgentPod) -> _Answer:
        try:
            return _Answer(agent.node, session.view(agent, view.name, view.kind, **view.arguments))
        except Error as error:
            return _Answer(agent.node, None, error.msg)

    agents = session.agents()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, agents))


def _texts(answers: Sequence[_Answer], view: _View) -> str:
    """Return the texts of several nodes, with an empty line between them."""

    def text(answer: _Answer) -> str:
        if answer.error:
            return f"node {answer.node}: no answer\n  error:  {answer.error}"
        heading = click.style(f"node {answer.node}", bold=True) + "\n" if view.heading else ""
        return heading + view.text(answer.found)

    return "\n\n".join(map(text, answers))


def _json(found: Any, *, compact: bool) -> str:
    import msgspec  # noqa: PLC0415 — see wirespeed.cli.main

    return msgspec.json.encode(found).decode() if compact else options.as_json(found)


def _json_line(answer: _Answer) -> str:
    told = {"error": answer.error} if answer.error else {"answer": answer.found}
    return _json({"node": answer.node, **told}, compact=True)
