"""The man pages and completion scripts are what the code says, and what they say is true."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from docsite import commands, man, manual, roff
from wirespeed.eal import command as eal
from wirespeed.node import parse_config

CONTEXTS = commands.all_contexts()


def test_generated_files_are_what_the_code_says() -> None:
    found = {path: path.read_text() for folder in man.FOLDERS for path in folder.iterdir()}
    assert found == man.files(), "make docs"


def test_every_command_has_a_page() -> None:
    pages = {path.name for path in man.files()}
    assert {f"{context.command_path.replace(' ', '-')}.1" for context in CONTEXTS} <= pages


def test_function_of_the_zsh_script_has_the_name_of_its_file() -> None:
    """zsh loads the file when it first calls the function of that name. Later calls must find the real one."""
    path = man.FOLDERS[1] / "_wirespeed_completion"
    assert path.read_text().startswith("#compdef wirespeed\n")
    assert f"\n{path.name}() {{\n" in path.read_text()


def test_page_of_a_new_command_has_the_common_sections() -> None:
    @click.command()
    @click.option("--config", help="The file.  [default: $WIRESPEED_CONFIG]")
    def new(config: str) -> None:
        """Do something new. It has a second sentence."""

    page = man._command(click.Context(new, info_name="new", parent=commands.root()))
    titles = [line.removeprefix(".SH ") for line in page.splitlines() if line.startswith(".SH ")]
    assert titles[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"]
    assert titles[4:] == ["EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
    assert "wirespeed\\-new \\-\nDo something new" in page


def test_what_is_written_by_hand_is_about_commands_that_exist() -> None:
    known = {context.command_path for context in CONTEXTS}
    tables = (manual.COMMAND_STATUS, manual.COMMAND_ENVIRONMENT, manual.COMMAND_FILES, manual.SEE_ALSO)
    assert {path for table in tables for path in table} <= known
    assert {path for paths in manual.SEE_ALSO.values() for path in paths} <= known


def example_lines() -> list[str]:
    return [line for context in CONTEXTS for line in commands.examples(context.command)]


def arguments(line: str) -> list[str]:
    """The arguments of `wirespeed` in a line of a shell: without what follows: pipes, redirections, comments."""
    substituted = re.search(r"\$\((wirespeed [^)]*)\)", line)
    words = shlex.shlex(substituted[1] if substituted else line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found = list(words)
    return list(takewhile(lambda word: word not in {"|", "&&", ">"}, found[found.index("wirespeed") + 1 :]))


@pytest.mark.parametrize("line", example_lines())
def test_example_is_a_command_line_that_its_command_accepts(line: str) -> None:
    words = arguments(line)
    context = commands.kubectl_root() if line.startswith("kubectl ") else commands.root()
    while isinstance(context.command, click.Group):
        if context.command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        name, command, words = context.command.resolve_command(context, words)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context, **command.context_settings)
    if context.info_name == "eal":
        eal._parser("wirespeed eal").parse_args(words)
        return
    values, rest, _ = context.command.make_parser(context).parse_args(words)
    assert rest == []
    required = {each.name for each in context.command.params if each.required}
    assert all(values.get(name) for name in required)


def test_example_of_the_configuration_is_one() -> None:
    config = parse_config(manual.AGENT_YAML.example)
    assert config.device_plugin == "/etc/wirespeed/pools.json"


def test_files_of_the_pages_are_the_defaults_of_the_code() -> None:
    for key in manual.CONFIGURED_FILES:
        (path,) = man._configured_file(key)
        assert Path(path).is_absolute()


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("one. Two; three", "one.\nTwo; three"),
        ("`--a-b`, c-d", "\\fB\\-\\-a\\-b\\fR, c-d"),
        ("a [link](page.md#x) here", "a link here"),
        (".begins with a dot", "\\&.begins with a dot"),
        ("back\\slash, it's ~ and ^", "back\\eslash, it\\(aqs \\(ti and \\(ha"),
        ("Köln…", "K\\[u00F6]ln..."),
    ],
)
def test_markdown_becomes_roff_that_shows_the_same(markdown: str, expected: str) -> None:
    assert roff.text(markdown) == expected
