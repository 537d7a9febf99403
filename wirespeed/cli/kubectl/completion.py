"""What kubectl suggests on TAB after `kubectl wirespeed`: it runs the program `kubectl_complete-wirespeed`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from wirespeed.cli.kubectl.session import Session

    Items = list[CompletionItem[str]]

_NO_FILES = ":4"  # cobra's ShellCompDirectiveNoFileComp: suggest no files if there is nothing else


def main() -> None:
    """Print a suggestion a line, and how kubectl is to use them; the last argument is incomplete."""
    from click.shell_completion import ShellComplete  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cli.kubectl.commands import program  # noqa: PLC0415 — it imports this module

    *words, incomplete = sys.argv[1:] or [""]
    for item in ShellComplete(program, {}, "kubectl wirespeed", "").get_completions(words, incomplete):
        click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(_NO_FILES)


def nodes(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the nodes that have an agent."""
    return _items(ctx, incomplete, lambda session: (agent.node for agent in session.agents()))


def pods(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Suggest the pods of the namespace, or of the one that the word begins with."""
    namespace, slash, _name = incomplete.rpartition("/")

    def suggest(session: Session) -> Iterable[str]:
        return (f"{namespace}{slash}{name}" for name in session.names_of_pods(namespace or session.namespace))

    return _items(ctx, incomplete, suggest)


def _items(ctx: click.Context, incomplete: str, suggest: Callable[[Session], Iterable[str]]) -> Items:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cli.kubectl.session import Caller, Session  # noqa: PLC0415
    from wirespeed.errors import Error  # noqa: PLC0415

    try:
        with closing(Session(Caller(*(ctx.params.get(name) or "" for name in Caller._fields)))) as session:
            found = sorted({text for text in suggest(session) if text.startswith(incomplete)})
    except Error:
        return []
    return [CompletionItem(text) for text in found]
