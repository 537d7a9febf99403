"""docs/commands.md: every command of the programs with its arguments and options, from the code.

python -m docsite.commands    # write it: make docs
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click

from wirespeed.cli.kubectl.commands import program as kubectl
from wirespeed.cli.main import main as program
from wirespeed.cli.options import EXAMPLES
from wirespeed.eal import command as eal

PAGE = Path(__file__).parents[1] / "docs/commands.md"
_WIDTH = 116
_HEAD = """\
<!-- Made from the code by `make docs`. -->

# Commands

`wirespeed COMMAND --help` shows the same texts, and so do the man pages. [On the command line](cli.md) explains
what is common to all commands: exit statuses, `--json`, completion. In an application's container, `wirespeed` has
only the commands `eal` and `ready`. The commands of [`kubectl wirespeed`](cli.md#kubectl-wirespeed) are at the end.
"""
# The default, the range and the like, which click appends to a help text.
_EXTRA = re.compile(r"\s*\[(?P<extra>[^\[\]]+)\]$")
# Parts of a help text that are code in Markdown already.
_CODE = re.compile(r"(`[^`]*`)")


def page() -> str:
    found = [*walk(root()), kubectl_root(), *walk(kubectl_root())]
    rows = [
        f"| [`{context.command_path}`](#{context.command_path.replace(' ', '-')}) "
        f"| {_cell(context.command.get_short_help_str(limit=200))} |"
        for context in found
    ]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    return "\n".join([_HEAD, table, *map(_section, found)]) + "\n"


def root() -> click.Context:
    return click.Context(program, info_name="wirespeed", **program.context_settings)


def kubectl_root() -> click.Context:
    return click.Context(kubectl, info_name="kubectl wirespeed", **kubectl.context_settings)


def all_contexts() -> list[click.Context]:
    """The programs, each followed by its commands."""
    return [each for top in (root(), kubectl_root()) for each in (top, *walk(top))]


def walk(group: click.Context) -> Iterator[click.Context]:
    """The commands of a group in the order of --help, each followed by its subcommands."""
    for context in children(group):
        yield context
        yield from walk(context)


def children(group: click.Context) -> Iterator[click.Context]:
    """The commands of a group in the order of --help; none of a command that is no group."""
    if isinstance(group.command, click.Group):
        for name in group.command.list_commands(group):
            command = group.command.get_command(group, name)
            assert command is not None
            yield click.Context(command, info_name=name, parent=group, **command.context_settings)


def examples(command: click.Command) -> list[str]:
    """The command lines of `wirespeed.cli.options.examples`."""
    head, _, lines = (command.epilog or "").partition(EXAMPLES)
    assert not head.strip("\b\n"), "an epilog consists of examples"
    return inspect.cleandoc(lines).splitlines()


def _section(context: click.Context) -> str:
    parts = [f"\n{'#' * max(2, _depth(context))} {context.command_path}"]
    if context.command_path == "wirespeed eal":
        parts.append(_fenced(help_of_eal()))
    else:
        parts.append(_fenced(_one_line(context.command.get_usage(context).removeprefix("Usage: "))))
        help_text = inspect.cleandoc(context.command.help or "")
        parts += [_wrapped(_markdown(each)) for each in help_text.split("\n\n")]
        parts.append("\n".join(_listed(context)))
    if lines := examples(context.command):
        parts += ["Examples:", _fenced("\n".join(lines))]
    return "\n\n".join(part for part in parts if part)


def _depth(context: click.Context) -> int:
    """1 for a program, 2 for its commands."""
    return 1 + (_depth(context.parent) if context.parent else 0)


def help_of_eal(*, width: int = _WIDTH) -> str:
    """The help of `wirespeed eal`, which parses its options without click: it also runs where there is no click."""
    with (
        patch.dict(os.environ, COLUMNS=str(width + 2), NO_COLOR="1"),
        contextlib.redirect_stdout(io.StringIO()) as shown,
        contextlib.suppress(SystemExit),
    ):
        eal.main(["--help"])
    return shown.getvalue().rstrip()


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    """The options of a command without --help: names and value, and the text, with the default at its end."""
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            names, text = record
            extra = _EXTRA.search(text)
            yield names, _EXTRA.sub("", text) + (f" ({extra['extra']})" if extra else "")


def _listed(context: click.Context) -> Iterator[str]:
    for names, text in options(context):
        yield _wrapped(f"`{names}`: {_markdown(text)}", first="- ", others="  ")


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def _wrapped(text: str, *, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        _one_line(text),
        width=_WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"[*\\]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _markdown(_one_line(text)).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
