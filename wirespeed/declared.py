"""What the Structs of configurations declare, for JSON Schemas and documentation: texts, kinds of values, defaults.

A key's documentation is the string literal below its field. Only the source has it, so it costs the agent nothing.
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

from wirespeed.structs import Cell, Words, expected, keys_of, options, plain

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
    """Return what a type accepts as a cell of a table, in Markdown: "1 to 4094", "`on`, `off`"."""
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
    said = expected(typing.Annotated[kind, *marks] if marks else kind)
    return re.sub(r"^(?:an? |the )?(?:integer from |integer$|string$)?", "", said)


def default(kind: _Kind, key: str) -> str:
    """Return the default of a key as a cell of a table; "" for an empty one."""
    field = next(field for field in msgspec.structs.fields(kind) if field.encode_name == key)
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct) or value is msgspec.NODEFAULT or (not value and value is not False):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def schema(*kinds: _Kind) -> dict[str, Schema]:
    """Return the JSON Schemas of Structs and of those in them, by their names, with the documentation."""
    _, found = msgspec.json.schema_components(kinds)
    for kind in _all(kinds):
        properties = found[kind.__name__]["properties"]
        for key, text in texts(kind).items():
            if properties[key].get("default", "") is None:
                del properties[key]["default"]
            if text:
                properties[key]["description"] = _LINK.sub(r"\1", text)
    portable: dict[str, Schema] = _portable(found)
    return portable


def _all(hints: Any) -> set[_Kind]:
    """Return the Structs among types, and all those in them."""
    found: set[_Kind] = set()
    for hint in hints:
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found |= {hint} | _all(field.type for field in msgspec.structs.fields(hint))
        else:
            found |= _all(typing.get_args(hint))
    return found


def _portable(value: Any) -> Any:  # JSON, in and out
    """Replace what only Python's regular expressions have."""
    if isinstance(value, dict):
        return {key: plain(each) if key == "pattern" else _portable(each) for key, each in value.items()}
    return [_portable(each) for each in value] if isinstance(value, list) else value
