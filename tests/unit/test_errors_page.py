"""docs/errors.md: each message that it quotes is in the code, with the CNI code that the page gives for it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from wirespeed.cni.errors import Code, code_of
from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import NotFoundError, UnavailableError
from wirespeed.switches.switch import SwitchDownError

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/errors.md").read_text()
# An entry is a list item: the message with <placeholders>, and its CNI code or where it is seen.
ENTRY = re.compile(r"^- `([^`]+)`\s+\((\d+|log|event|command)\)$", re.MULTILINE)
# Between the constant parts of a message: placeholders, and what wirespeed.errors puts between an error's parts.
BETWEEN = re.compile(r"""<[^<>]+>|(?:unknown )?key "[^"]+"(?: is missing)?|\bexpected |, got '|; |(?<=\w): """)
FORMAT = re.compile(r"%(?:lld|zu|\.\d+f|[sdruxg])")  # of a log message, and of the shim's
SOURCES = ("wirespeed", "plugins", "deviceplugin", "eal")
# Errors that have their code from their class.
RAISED = {
    "DeviceTakenError": Code.TRY_AGAIN_LATER,
    "NotFoundError": code_of(NotFoundError("")),
    "SwitchDownError": code_of(SwitchDownError("")),
    "UnreachedError": code_of(SwitchDownError("")),
    "UnavailableError": code_of(UnavailableError("")),
}

# The constant parts of a file's texts, each with the codes of the errors that it is in; no code for other texts.
Parts = dict[str, set[int]]


def entries() -> list[tuple[str, str]]:
    """The messages of the page on one line each, and what is in parentheses behind them."""
    return [(" ".join(message.split()), kind) for message, kind in ENTRY.findall(TEXT)]


def constant_parts(message: str) -> list[str]:
    """The texts of the message that are in the code, without what may come from another text at their sides."""
    return [part for each in BETWEEN.split(message) if (part := each.strip(" ,;:()'"))]


@cache
def sources() -> dict[str, Parts]:
    """The texts of the code, by file."""
    files = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): python_parts(ast.parse(path.read_text())) for path in files}
    return found | {"shim": c_parts((ROOT / "shim/wirespeed-cni.c").read_text())}


def python_parts(tree: ast.Module) -> Parts:
    found: Parts = defaultdict(set)
    for text in texts(tree):
        for part in FORMAT.split(text):
            found[part] |= set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assigned = assignments(function)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            names = [each.id for each in ast.walk(call) if isinstance(each, ast.Name)] if codes(call) else []
            for node in (call, *(value for name in names for value in assigned[name])):
                for text in texts(node) if codes(call) else ():
                    for part in FORMAT.split(text):
                        found[part] |= codes(call)
    return found


def assignments(function: ast.FunctionDef) -> Mapping[str, list[ast.AST]]:
    """What a function assigns to each of its variables; part of it may be an error's text."""
    found: dict[str, list[ast.AST]] = defaultdict(list)
    for node in ast.walk(function):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            for name in (each for each in ast.walk(target) if isinstance(each, ast.Name)):
                found[name.id].append(node.value)  # type: ignore[attr-defined]
    return found


def texts(node: ast.AST) -> Iterator[str]:
    """The constant parts of all texts in it, but for docstrings."""
    inside = list(ast.walk(node))
    docstrings = {id(each.value) for each in inside if isinstance(each, ast.Expr)}
    for each in inside:
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in docstrings:
            yield each.value


def codes(node: ast.Call) -> set[int]:
    """The CNI code of a call that makes an error; none for another call."""
    named = node.func.id if isinstance(node.func, ast.Name) else ""
    given = [
        each.attr for each in node.args if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "Kind"
    ]
    return {code_of(Error(Kind[each])) for each in given} | ({int(RAISED[named])} if named in RAISED else set())


def c_parts(text: str) -> Parts:
    """The texts of the shim; those of `fail` with the code that they are told with."""
    found: Parts = defaultdict(set)
    literal = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'
    for code, quoted in re.findall(rf"fail\((\w+),\s*{literal}", text):
        for part in FORMAT.split("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', quoted))):
            found[part].add(int(Code[code]))
    return found


def places(message: str) -> list[Parts]:
    """The files that have every constant part of the message."""
    parts = constant_parts(message)
    return [known for known in sources().values() if all(any(part in text for text in known) for part in parts)]


def codes_of(message: str) -> set[int]:
    """The codes of the errors that have a constant part of the message in their text."""
    parts = [part for part in constant_parts(message) if len(part) >= 6]
    texts_of = (item for known in places(message) for item in known.items())
    return {code for text, told in texts_of if any(part in text for part in parts) for code in told}


def test_the_page_has_the_messages_that_are_met_most_often() -> None:
    assert len(entries()) >= 50
    assert len({message for message, _ in entries()}) == len(entries())
    listed = TEXT.partition("\n## A pod does not start\n")[2]
    assert len(re.findall(r"^- ", listed, re.MULTILINE)) == len(entries())


@pytest.mark.parametrize(("message", "kind"), entries())
def test_message_is_in_the_code(message: str, kind: str) -> None:
    assert len("".join(constant_parts(message))) >= 10, "too little of it is constant to be found"
    found = places(message)
    assert found, f"no file has all of {constant_parts(message)}"
    raised = codes_of(message)
    if kind.isdecimal() and raised:
        assert int(kind) in raised


def test_the_codes_of_most_messages_are_known() -> None:
    with_code = [message for message, kind in entries() if kind.isdecimal()]
    assert sum(bool(codes_of(message)) for message in with_code) > 0.8 * len(with_code)


def test_a_message_that_is_not_in_the_code_is_noticed() -> None:
    assert places("no device of resource <resource> is left for pod <pod>")
    assert not places("no device of resource <resource> is gone for pod <pod>")


def test_every_code_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert [int(row) for row in rows] == sorted(Code)
