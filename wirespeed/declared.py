"""JSON Schemas and documentation of configurations, from the Structs that declare their keys.

A key's documentation is the string literal below its field. It is read from the source code, so the agent does not
load it.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
import typing
from functools import cache
from typing import Any, Literal

import msgspec

from wirespeed.structs import Cell, Words, expected, keys_of, options, portable_pattern

Schema = dict[str, Any]
_Kind = type[msgspec.Struct]

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@cache
def texts(kind: _Kind) -> dict[str, str]:
    """Return the documentation of each key of a Struct, in Markdown and in one line; "" for a key without."""
    (declaration,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(declaration, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in itertools.pairwise(declaration.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = " ".join(text.split())
    names = dict(zip(kind.__struct_fields__, keys_of(kind), strict=True))
    base = kind.__base__
    inherited = texts(base) if base is not None and base is not msgspec.Struct else {}
    return {key: found.get(name, inherited.get(key, "")) for name, key in names.items()}


def cell(hint: Any) -> str:
    """Describe what a type accepts, in Markdown, for a cell of a table: "1 to 4094", "`on`, `off`"."""
    example = next((mark.text for _, marks in options(hint) for mark in marks if isinstance(mark, Cell)), "")
    return example or ", or ".join(filter(None, dict.fromkeys(_cell(kind, marks) for kind, marks in options(hint))))


def _cell(kind: Any, marks: tuple[Any, ...]) -> str:
    words = next((mark for mark in marks if isinstance(mark, Words)), None)
    if words and words.cell:
        return words.cell
    if not words and (kind is bool or typing.get_origin(kind) is Literal):
        choices = ("true", "false") if kind is bool else typing.get_args(kind)
        return ", ".join(f"`{choice}`" for choice in choices if choice)
    if not words and typing.get_origin(kind) in {list, tuple, frozenset}:
        inside = cell(typing.get_args(kind)[0])
        return f"list of {inside}" if inside else "list"
    text = expected(typing.Annotated[kind, *marks] if marks else kind)
    return re.sub(r"^(?:an? |the )?(?:integer from |integer$|string$)?", "", text)


def default(kind: _Kind, key: str) -> str:
    """Return the default of a key as a cell of a table; "" for an empty one."""
    field = next(field for field in msgspec.structs.fields(kind) if field.encode_name == key)
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct) or value is msgspec.NODEFAULT or (not value and value is not False):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def schema(*kinds: _Kind) -> dict[str, Schema]:
    """Return the JSON Schemas of Structs and of the Structs nested in them, by name, with documentation."""
    _, found = msgspec.json.schema_components(kinds)
    for kind in _structs_in(kinds):
        properties = found[kind.__name__]["properties"]
        for key, text in texts(kind).items():
            if properties[key].get("default", "") is None:
                del properties[key]["default"]
            if text:
                properties[key]["description"] = _LINK.sub(r"\1", text)
    portable: dict[str, Schema] = _portable(found)
    return portable


def _structs_in(hints: Any) -> set[_Kind]:
    """Return the Structs among these types, and all Structs nested in them."""
    found: set[_Kind] = set()
    for hint in hints:
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found |= {hint} | _structs_in(field.type for field in msgspec.structs.fields(hint))
        else:
            found |= _structs_in(typing.get_args(hint))
    return found


def _portable(value: Any) -> Any:  # JSON, in and out
    """Remove from patterns what only Python's regular expressions support."""
    if isinstance(value, dict):
        return {key: portable_pattern(each) if key == "pattern" else _portable(each) for key, each in value.items()}
    return [_portable(each) for each in value] if isinstance(value, list) else value
