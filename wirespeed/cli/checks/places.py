"""Where in a file a value stands, in JSON and YAML, and in texts inside a document that are one of them again."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from wirespeed.kube import kubeyaml

Step = str | int  # a key, or an index from 0
Lines = Callable[[int], int]  # from an offset in a text to the line of the file, from 1

_SPACE = re.compile(r"[ \t\n\r]*")
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)  # nothing but the end of a document begins a line so
_ACTION = re.compile(r"\{\{|\{%")  # of Helm, Go or Jinja
TEMPLATE = "a template is not read: check what is made of it, such as the output of `helm template`"
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)  # or a string, in which there are none
_DECODER = json.JSONDecoder()


class UnreadableError(Exception):
    """The text is neither JSON nor YAML; `line` is where that shows."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class TemplateError(UnreadableError):
    """The text is what Helm or another program makes a document of."""


@dataclass(eq=False)
class Place:
    """Where a value is: the line of its key, else of its beginning. `lines` is for the text of a string."""

    line: int
    parts: dict[Step, Place] = field(default_factory=dict)
    lines: Lines = lambda _: 1

    def at(self, steps: tuple[Step, ...]) -> Place:
        """The place of what the steps lead to, or of the last thing on the way that is there."""
        place = self
        for step in steps:
            if step not in place.parts:
                break
            place = place.parts[step]
        return place


@dataclass
class Document:
    """A value and its place; `twice` are the keys that an object had already, and their lines."""

    value: Any
    place: Place
    twice: list[tuple[int, str]] = field(default_factory=list)
    is_json: bool = False


def lines_of(text: str) -> Lines:
    """The lines of a file's own text."""
    ends = [match.start() for match in re.finditer("\n", text)]
    return lambda offset: bisect_left(ends, offset) + 1


def read(text: str, lines: Lines | None = None, *, json_only: bool = False) -> list[Document]:
    """The documents of a text. Raises UnreadableError.

    One that begins as JSON does is JSON, unless it is none and yet YAML.
    """
    lines = lines or lines_of(text)
    if not json_only and not text.lstrip().startswith(("{", "[")):
        return _yaml(text, lines)
    try:
        return [read_json(text, lines)]
    except UnreadableError as error:
        if not json_only:
            try:
                return _yaml(text, lines)
            except UnreadableError:
                pass
        raise error from None


def readable(text: str, *, json_only: bool = False) -> Iterator[Document | UnreadableError]:
    """The documents of a file, and what cannot be read of it: of several documents one does not hide the others."""
    lines = lines_of(text)
    try:
        yield from read(text, lines, json_only=json_only)
    except UnreadableError as error:
        begins = [0, *(match.end() for match in _SEPARATOR.finditer(text))]
        if json_only or len(begins) == 1:
            yield _told(error, text, 0, lines)
            return
        for begin, end in zip(begins, [*begins[1:], len(text)], strict=True):
            part = text[begin:end].removesuffix("---")
            try:
                yield from read(part, lambda offset, begin=begin: lines(begin + offset))  # type: ignore[misc]
            except UnreadableError as problem:
                yield _told(problem, part, begin, lines)


def _told(error: UnreadableError, text: str, begin: int, lines: Lines) -> UnreadableError:
    """The error, or that the text is a template, where that is why."""
    action = _ACTION.search(text)
    if action is None:
        return error
    return TemplateError(lines(begin + action.start()), TEMPLATE)


def read_json(text: str, lines: Lines) -> Document:
    """The value of a JSON text. Raises UnreadableError."""
    try:
        value = json.loads(text)
        document = Document(value, Place(lines(0)), is_json=True)
        document.place, _ = _scan(text, _skip(text, 0), lines, document.twice)
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}{_unclosed(text, error.pos, lines)}"
        raise UnreadableError(lines(error.pos), f"not JSON: {reason}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UnreadableError(lines(0), f"not JSON: {_line(error)}") from error
    return document


def _unclosed(text: str, end: int, lines: Lines) -> str:
    """The bracket that is not closed where a JSON text ends, or has another closed; "" where that is not so."""
    opened: list[int] = []
    for match in _BRACKET.finditer(text, 0, end):
        if match[0] in "[{":
            opened.append(match.start())
        elif match[0] in "]}" and opened:
            opened.pop()
    found, rest = text[opened[-1]] if opened else "", text[end:].lstrip()[:1]
    if not found or rest not in ("", "]" if found == "{" else "}"):
        return ""
    return f": the {text[opened[-1]]} of line {lines(opened[-1])} is not closed"


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _scan(text: str, at: int, lines: Lines, twice: list[tuple[int, str]]) -> tuple[Place, int]:
    """The place of the value at an offset of a JSON text that is known to be one, and where the value ends."""
    place = Place(lines(at))
    if text[at] not in "{[":
        _, end = _DECODER.raw_decode(text, at)
        place.lines = lambda _: place.line  # a string is on one line
        return place, end
    begin, at = at, _skip(text, at + 1)
    while text[at] not in "}]":
        step: Step = len(place.parts)
        where = at
        if text[begin] == "{":
            step, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
            if step in place.parts:
                twice.append((lines(where), str(step)))
        part, at = _scan(text, at, lines, twice)
        part.line = lines(where)
        place.parts[step] = part
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return place, at + 1


def _yaml(text: str, lines: Lines) -> list[Document]:
    try:
        return list(_documents(text, lines))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(error, text, lines) from error


def _documents(text: str, lines: Lines) -> Iterator[Document]:
    loader = kubeyaml.Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            twice: list[tuple[int, str]] = []
            _repeated(node, lines, twice, set())
            value = loader.construct_document(node)
            yield Document(value, _Placed(text, lines).place(node), twice)
    finally:
        loader.dispose()


def _not_yaml(error: Exception, text: str, lines: Lines) -> UnreadableError:
    mark = getattr(error, "problem_mark", None)
    position = mark.index if mark else getattr(error, "position", 0)
    offset = min(position, len(text)) if isinstance(position, int) else 0
    reason = _line(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    begun, context = getattr(error, "context_mark", None), getattr(error, "context", None)
    if begun and context and lines(begun.index) != lines(offset):  # such as "while parsing a flow sequence"
        reason = f"{reason} {context} of line {lines(begun.index)}"
    return UnreadableError(lines(offset), f"not YAML: {reason}")


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _repeated(node: yaml.Node, lines: Lines, twice: list[tuple[int, str]], seen: set[int]) -> None:
    """Keys that are there twice, but for those that are merged."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not kubeyaml.is_merge(key):
                name = kubeyaml.key(key)
                if name in keys:
                    twice.append((lines(key.start_mark.index), name))
                keys.add(name)
            _repeated(value, lines, twice, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _repeated(item, lines, twice, seen)


class _Placed:
    """Places of the nodes of one YAML document; a node that others refer to has one place."""

    def __init__(self, text: str, lines: Lines) -> None:
        self._text = text
        self._lines = lines
        self._known: dict[int, Place] = {}

    def place(self, node: yaml.Node, line: int = 0) -> Place:
        """The node's place; `line` is that of its key, 0 where it has none."""
        if id(node) in self._known:  # which may be inside itself
            return self._known[id(node)]
        place = self._known[id(node)] = Place(line or self._lines(node.start_mark.index))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if kubeyaml.is_merge(key):
                    for source in kubeyaml.merged(value):
                        place.parts |= self.place(source).parts
                else:
                    place.parts[kubeyaml.key(key)] = self.place(value, self._lines(key.start_mark.index))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                place.parts[index] = self.place(item)
        elif isinstance(node, yaml.ScalarNode):
            place.lines = self._lines_inside(node)
        return place

    def _lines_inside(self, node: yaml.ScalarNode) -> Lines:
        """The lines of a string's text."""
        offsets: list[int] = []

        def line(offset: int) -> int:
            if not offsets:
                offsets.extend(_offsets(self._text, node))
            return self._lines(offsets[min(offset, len(offsets) - 1)])

        return line


def _offsets(source: str, node: yaml.ScalarNode) -> list[int]:
    """Where in `source` each character of a string is, and its end.

    The characters of a string come in the same order whatever style it is written in: those that are no space are
    found one after the other, passing over indentation and the backslashes of escapes.
    """
    at, end = node.start_mark.index, node.end_mark.index
    if node.style in ("|", ">"):
        at = source.find("\n", at, end) + 1 or end
    elif node.style:
        at += 1  # the quote
    offsets = []
    for character in str(node.value):
        found = -1 if character.isspace() else source.find(character, at, end)
        offsets.append(at if found < 0 else found)
        at = at if found < 0 else found + 1
    return [*offsets, min(at, end)]
