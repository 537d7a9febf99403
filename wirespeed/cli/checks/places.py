"""Line numbers of the values in JSON and YAML files, also of JSON and YAML inside strings of a document."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from wirespeed.errors import PathStep
from wirespeed.kube import kubeyaml

Lines = Callable[[int], int]  # offset in a text to line number of the file, from 1

_SPACE = re.compile(r"[ \t\n\r]*")
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)  # in YAML, no other line begins with it
_ACTION = re.compile(r"\{\{|\{%")  # template expression of Helm, Go or Jinja
TEMPLATE = "a template is not read: check what is rendered from it, such as the output of `helm template`"
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)  # strings are matched too, to skip brackets in them
_DECODER = json.JSONDecoder()


class UnreadableError(Exception):
    """The text is neither JSON nor YAML; `line` is where parsing failed."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class TemplateError(UnreadableError):
    """The text is a template of Helm or a similar program."""


@dataclass(eq=False)
class Place:
    """A value's position: the line of its key, or else of its beginning. `lines` maps offsets inside a string."""

    line: int
    parts: dict[PathStep, Place] = field(default_factory=dict)
    lines: Lines = lambda _: 1

    def at(self, steps: tuple[PathStep, ...]) -> Place:
        """Return the place that the steps lead to, or the deepest one on the way that exists."""
        place = self
        for step in steps:
            if step not in place.parts:
                break
            place = place.parts[step]
        return place


@dataclass
class Document:
    """A value and its place. `repeated_keys` has the repeated keys of objects, with their lines."""

    value: Any
    place: Place
    repeated_keys: list[tuple[int, str]] = field(default_factory=list)
    is_json: bool = False


def value_at(value: Any, *keys: PathStep) -> Any:
    """Return the value at nested keys of a document of any form; None if it has no such keys."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def object_at(value: Any, *keys: str) -> dict[str, Any]:
    """Return the object at nested keys, as `value_at`; an empty one if there is none."""
    found = value_at(value, *keys)
    return found if isinstance(found, dict) else {}


def list_at(value: Any, *keys: str) -> list[Any]:
    """Return the list at nested keys, as `value_at`; an empty one if there is none."""
    found = value_at(value, *keys)
    return found if isinstance(found, list) else []


def lines_of(text: str) -> Lines:
    """Return the map from offsets in a file's text to its line numbers."""
    ends = [match.start() for match in re.finditer("\n", text)]
    return lambda offset: bisect_left(ends, offset) + 1


def read(text: str, lines: Lines | None = None, *, json_only: bool = False) -> list[Document]:
    """Return the documents of a text. Raises UnreadableError.

    A text that begins with { or [ is parsed as JSON, and as YAML if that fails.
    """
    lines = lines or lines_of(text)
    if not json_only and not text.lstrip().startswith(("{", "[")):
        return _yaml(text, lines)
    try:
        return [read_json(text, lines)]
    except UnreadableError:
        if not json_only:
            with suppress(UnreadableError):
                return _yaml(text, lines)
        raise


def readable_documents(text: str, *, json_only: bool = False) -> Iterator[Document | UnreadableError]:
    """Yield the documents of a file. In a YAML stream, an unreadable document does not hide the others."""
    lines = lines_of(text)
    try:
        yield from read(text, lines, json_only=json_only)
    except UnreadableError as error:
        begins = [0, *(match.end() for match in _SEPARATOR.finditer(text))]
        if json_only or len(begins) == 1:
            yield _or_template_error(error, text, 0, lines)
            return
        for begin, end in zip(begins, [*begins[1:], len(text)], strict=True):
            part = text[begin:end].removesuffix("---")
            try:
                yield from read(part, lambda offset, begin=begin: lines(begin + offset))  # type: ignore[misc]
            except UnreadableError as problem:
                yield _or_template_error(problem, part, begin, lines)


def _or_template_error(error: UnreadableError, text: str, begin: int, lines: Lines) -> UnreadableError:
    """Return a TemplateError instead of the error if the text contains a template expression."""
    action = _ACTION.search(text)
    if action is None:
        return error
    return TemplateError(lines(begin + action.start()), TEMPLATE)


def read_json(text: str, lines: Lines) -> Document:
    """Parse a JSON text. Raises UnreadableError."""
    try:
        value = json.loads(text)
        document = Document(value, Place(lines(0)), is_json=True)
        document.place, _ = _scan(text, _skip(text, 0), lines, document.repeated_keys)
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}{_unclosed_bracket(text, error.pos, lines)}"
        raise UnreadableError(lines(error.pos), f"not JSON: {reason}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UnreadableError(lines(0), f"not JSON: {_line(error)}") from error
    return document


def _unclosed_bracket(text: str, end: int, lines: Lines) -> str:
    """Describe the open bracket if parsing failed at the end of the text or at a wrong bracket; else return ""."""
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


def _scan(text: str, at: int, lines: Lines, repeated_keys: list[tuple[int, str]]) -> tuple[Place, int]:
    """Return the place of the value at an offset of a valid JSON text, and the offset of the value's end."""
    place = Place(lines(at))
    if text[at] not in "{[":
        _, end = _DECODER.raw_decode(text, at)
        place.lines = lambda _: place.line  # a string is on one line
        return place, end
    begin, at = at, _skip(text, at + 1)
    while text[at] not in "}]":
        step: PathStep = len(place.parts)
        where = at
        if text[begin] == "{":
            step, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
            if step in place.parts:
                repeated_keys.append((lines(where), str(step)))
        part, at = _scan(text, at, lines, repeated_keys)
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
            node, places = loader.get_node(), _YamlPlaces(text, lines)
            place = places.place(node)
            yield Document(loader.construct_document(node), place, places.repeated_keys)
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


class _YamlPlaces:
    """Places of the nodes of one YAML document, and the repeated keys of its mappings; merge keys (<<) may repeat.

    An anchored node has a single place for all its aliases.
    """

    def __init__(self, text: str, lines: Lines) -> None:
        self._text = text
        self._lines = lines
        self._known: dict[int, Place] = {}
        self.repeated_keys: list[tuple[int, str]] = []

    def place(self, node: yaml.Node, line: int = 0) -> Place:
        """Return the node's place; `line` is that of its key, 0 for a node without one."""
        if id(node) in self._known:  # a node may contain itself
            return self._known[id(node)]
        place = self._known[id(node)] = Place(line or self._lines(node.start_mark.index))
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                if kubeyaml.is_merge(key):
                    for source in kubeyaml.merge_sources(value):
                        place.parts |= self.place(source).parts
                    continue
                name, key_line = kubeyaml.key(key), self._lines(key.start_mark.index)
                if name in names:
                    self.repeated_keys.append((key_line, name))
                names.add(name)
                place.parts[name] = self.place(value, key_line)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                place.parts[index] = self.place(item)
        elif isinstance(node, yaml.ScalarNode):
            place.lines = self._lines_inside(node)
        return place

    def _lines_inside(self, node: yaml.ScalarNode) -> Lines:
        """Return the map from offsets in a string to line numbers."""
        offsets = cache(lambda: _offsets(self._text, node))
        return lambda offset: self._lines(offsets()[min(offset, len(offsets()) - 1)])


def _offsets(source: str, node: yaml.ScalarNode) -> list[int]:
    """Return the offset in `source` of each character of a string, and of its end.

    In every YAML style, a string's characters appear in order. Non-space characters are therefore searched for one
    after the other, which skips indentation and the backslashes of escapes.
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
