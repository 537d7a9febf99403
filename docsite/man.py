"""deploy/man: a man page for each command, and one for the agent's configuration; deploy/completions beside it.

python -m docsite.man    # write them: make docs

They are made from what docs/commands.md and docs/configuration.md are made from. The files are committed, because a
wheel is built without this project's dependencies; a unit test fails if they are not what the code says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from docsite import commands, keys, roff
from docsite.manual import (
    AGENT_YAML,
    COMMAND_ENVIRONMENT,
    COMMAND_FILES,
    COMMAND_STATUS,
    CONFIGURED_FILES,
    ENVIRONMENT,
    SEE_ALSO,
    SHIM_ENVIRONMENT,
    STATUS,
)
from wirespeed import declared
from wirespeed.cli import completion
from wirespeed.node import DEFAULT_CONFIG, NodeConfig

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "deploy/man", ROOT / "deploy/completions")
_CONFIGURATION = "wirespeed-agent.yaml(5)"
# As the shells look for them. zsh calls the function with the name of the file, which must be the one in the file.
_SCRIPTS = {"bash": "wirespeed.bash", "zsh": "_wirespeed_completion", "fish": "wirespeed.fish"}
_RELEASE = re.compile(r"^## \[\d+\.\d+\.\d+\] - (?P<date>\S+)$", re.MULTILINE)


def files() -> dict[Path, str]:
    """Return the content of every generated file, by its path."""
    man, scripts = FOLDERS
    found = {man / "wirespeed-agent.yaml.5": _configuration()}
    for context in commands.all_contexts():
        found[man / f"{_dashed(context)}.1"] = _command(context)
    return found | {scripts / name: completion.script(shell) for shell, name in _SCRIPTS.items()}


def write() -> None:
    """Write the files, and remove those of commands that are gone."""
    new = files()
    for folder in FOLDERS:
        folder.mkdir(exist_ok=True)
        for old in set(folder.iterdir()) - set(new):
            old.unlink()
    for path, content in new.items():
        path.write_text(content)


# A command


def _command(context: click.Context) -> str:
    command, name = context.command, _dashed(context)
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    short = command.get_short_help_str(limit=200).rstrip(".")
    found = [
        roff.section("NAME", f"{roff.escaped(name, hyphens=True)} \\-\n{roff.text(short)}"),
        roff.section("SYNOPSIS", roff.lines([roff.usage(_usage(context))])),
        roff.section("DESCRIPTION", *_joined(map(roff.text, paragraphs))),
    ]
    if context.command_path == "wirespeed eal":
        about, options = commands.help_of_eal(width=78).split("\n\noptions:\n")
        paragraphs = about.split("\n\n")[1:]  # without the usage
        found[-1] += "".join(f"\n.PP\n{_as_it_is(each)}" for each in paragraphs)
        found.append(roff.section("OPTIONS", roff.literal(inspect.cleandoc(options))))
    elif entries := [roff.tagged(roff.usage(names), text) for names, text in commands.options(context)]:
        found.append(roff.section("OPTIONS", *entries))
    if isinstance(command, click.Group):
        found.append(roff.section("COMMANDS", *_subcommands(context)))
    found += [
        roff.section("EXIT STATUS", *_entries(STATUS | COMMAND_STATUS.get(context.command_path, {}))),
        *_told("ENVIRONMENT", _environment(context)),
        *_told("FILES", _files(context)),
        *_examples(command),
        roff.section("SEE ALSO", ",\n".join(map(roff.page, _see_also(context)))),
    ]
    return _page(name, 1, found)


def _as_it_is(paragraph: str) -> str:
    """Return a paragraph of plain text; an indented one is literal."""
    return roff.literal(inspect.cleandoc(paragraph)) if paragraph.startswith(" ") else roff.text(paragraph)


def _usage(context: click.Context) -> str:
    return " ".join(context.command.get_usage(context).removeprefix("Usage: ").split())


def _subcommands(context: click.Context) -> Iterator[str]:
    for each in commands.children(context):
        short = each.command.get_short_help_str(limit=200)
        yield roff.tagged(roff.page(f"{_dashed(each)}(1)"), short)


def _environment(context: click.Context) -> dict[str, str]:
    names = {name: ENVIRONMENT[name] for name in COMMAND_ENVIRONMENT.get(context.command_path, ())}
    if _reads_configuration(context):
        return {"WIRESPEED_CONFIG": ENVIRONMENT["WIRESPEED_CONFIG"], **names}
    return names


def _files(context: click.Context) -> dict[str, str]:
    found = {}
    if _reads_configuration(context):
        found[str(DEFAULT_CONFIG)] = f"The agent's configuration: {_CONFIGURATION}."
    for key in COMMAND_FILES.get(context.command_path, ()):
        found |= _configured_file(key)
    return found


def _configured_file(key: str) -> dict[str, str]:
    path = declared.default(NodeConfig, key).strip("`")
    return {path: f"{CONFIGURED_FILES[key]} The key `{key}` of the configuration names another."}


def _reads_configuration(context: click.Context) -> bool:
    """Whether the command says that it reads the agent's configuration file; `wirespeed` stands for all of them."""
    options = " ".join(text for _, text in commands.options(context))
    return context.command_path == "wirespeed" or "WIRESPEED_CONFIG" in options + (context.command.help or "")


def _examples(command: click.Command) -> Iterator[str]:
    if lines := commands.examples(command):
        yield roff.section("EXAMPLES", roff.literal("\n".join(lines)))


def _see_also(context: click.Context) -> list[str]:
    """Return the commands above and below, those that belong together, and the page of the configuration."""
    above = [f"{_dashed(each)}(1)" for each in _above(context)]
    below = [f"{_dashed(each)}(1)" for each in commands.children(context)]
    others = [f"{name.replace(' ', '-')}(1)" for name in SEE_ALSO.get(context.command_path, ())]
    needs = [_CONFIGURATION] if _reads_configuration(context) else []
    return [*above, *below, *others, *needs]


def _above(context: click.Context) -> list[click.Context]:
    return [*_above(context.parent), context.parent] if context.parent else []


# The configuration


def _configuration() -> str:
    rows = []
    for key, default, text in keys.with_defaults(NodeConfig):
        told = f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
        rows.append(roff.tagged(roff.code(key.strip("`")), f"{told} Default: {default}." if default else told))
    files = {str(DEFAULT_CONFIG): "The file, unless `WIRESPEED_CONFIG` or an option `--config` names another."}
    for key in CONFIGURED_FILES:
        files |= _configured_file(key)
    described = AGENT_YAML.description.split("\n\n")
    return _page(
        "wirespeed-agent.yaml",
        5,
        [
            roff.section("NAME", "wirespeed\\-agent.yaml \\- configuration of the wirespeed node agent"),
            roff.section("DESCRIPTION", *_joined(map(roff.text, described))),
            roff.section("KEYS", *rows),
            *_told("ENVIRONMENT", {"WIRESPEED_CONFIG": ENVIRONMENT["WIRESPEED_CONFIG"], **SHIM_ENVIRONMENT}),
            *_told("FILES", files),
            roff.section("EXAMPLES", roff.text(AGENT_YAML.example_text), ".PP", roff.literal(AGENT_YAML.example)),
            roff.section(
                "SEE ALSO",
                ",\n".join(map(roff.page, ("wirespeed(1)", "wirespeed-agent(1)", "wirespeed-check(1)"))),
            ),
        ],
    )


# Layout


def _page(name: str, number: int, sections: list[str]) -> str:
    title = roff.escaped(name.upper(), hyphens=True)
    head = f'.\\" Made from the code by `make docs`.\n.TH {title} {number} {_date()} wirespeed wirespeed'
    return "\n".join([head, *sections]) + "\n"


def _date() -> str:
    """Return the date of the last release."""
    found = _RELEASE.search((ROOT / "CHANGELOG.md").read_text())
    assert found is not None
    return found["date"]


def _joined(paragraphs: Iterator[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        yield f".PP\n{paragraph}" if number else paragraph


def _told(title: str, entries: dict[str, str]) -> Iterator[str]:
    if entries:
        yield roff.section(title, *_entries(entries))


def _entries(entries: dict[str, str]) -> Iterator[str]:
    return (roff.tagged(roff.code(name), text) for name, text in entries.items())


def _dashed(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


if __name__ == "__main__":
    write()
