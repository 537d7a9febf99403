"""docs/commands.md: every command of `wirespeed` with its arguments and options, from the code.

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

from wirespeed.cli.main import main as program
from wirespeed.eal import command as eal

PAGE = Path(__file__).parents[1] / "docs/commands.md"
_WIDTH = 116
_HEAD = """\
<!-- Made from the code by `make docs`. -->

# Commands

`wirespeed COMMAND --help` shows the same texts. In an application's container, `wirespeed` has only the commands
`eal` and `ready`.
"""
# The default, the range and the like, which click appends to a help text.
_EXTRA = re.compile(r"\s*\[(?P<extra>[^\[\]]+)\]$")
# Parts of a help text that are code in Markdown already.
_CODE = re.compile(r"(`[^`]*`)")


def page() -> str:
    """The text of docs/commands.md."""
    found = list(_commands(click.Context(program, info_name="wirespeed")))
    rows = [
        f"| [`{context.command_path}`](#{_anchor(context.command_path)}) "
        f"| {_cell(context.command.get_short_help_str(limit=200))} |"
        for context in found
    ]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    return "\n".join([_HEAD, table, *map(_section, found)]) + "\n"


def _commands(group: click.Context) -> Iterator[click.Context]:
    """The commands of a group in the order of --help, each followed by its subcommands."""
    assert isinstance(group.command, click.Group)
    for name in group.command.list_commands(group):
        command = group.command.get_command(group, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=group, **command.context_settings)
        yield context
        if isinstance(command, click.Group):
            yield from _commands(context)


def _section(context: click.Context) -> str:
    parts = [f"\n{'#' * (context.command_path.count(' ') + 1)} {context.command_path}"]
    if context.command_path == "wirespeed eal":
        parts.append(_fenced(_help_of_eal()))
    else:
        parts.append(_fenced(_one_line(context.command.get_usage(context).removeprefix("Usage: "))))
        parts += _paragraphs(context.command.help or "")
        parts += ["\n".join(_options(context))]
    return "\n\n".join(part for part in parts if part)


def _help_of_eal() -> str:
    """The help of `wirespeed eal`, which parses its options without click: it also runs where there is no click."""
    with (
        patch.dict(os.environ, COLUMNS=str(_WIDTH), NO_COLOR="1"),
        contextlib.redirect_stdout(io.StringIO()) as shown,
        contextlib.suppress(SystemExit),
    ):
        eal.main(["--help"])
    return shown.getvalue().rstrip()


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            yield _option(*record)


def _option(names: str, text: str) -> str:
    """An item of the list of options."""
    extra = _EXTRA.search(text)
    told = _markdown(_EXTRA.sub("", text)) + (f" ({_markdown(extra['extra'])})" if extra else "")
    return _wrapped(f"`{names}`: {told}", first="- ", others="  ")


def _paragraphs(text: str) -> list[str]:
    return [_wrapped(_markdown(each)) for each in inspect.cleandoc(text).split("\n\n")]


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


def _anchor(title: str) -> str:
    return title.replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page())
