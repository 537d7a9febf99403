"""Structs: made ready for several threads; and what is wrong with a value that fits none, as everywhere here."""

from __future__ import annotations

import difflib
import re
import typing
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_PLACE = re.compile(r" - at (?P<a_key>`key` in )?`\$\.?(?P<path>[^`]*)`$")
_INDEX = re.compile(r"\[[^\]]*\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")


def prepared(kind: type[T]) -> type[T]:
    """The class, with what msgspec has to know of it for reading made now, by the one thread that imports it.

    Otherwise it makes that at the first reading; where two threads are the first, the process ends (SIGSEGV).
    """
    msgspec.json.Decoder(kind)
    return kind


def fault(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """'key "a.b": expected int, got str', or 'unknown key "a.c"; nearest known key: "a.b"'."""
    text = str(error)
    place = _PLACE.search(text)
    path = place["path"] if place else ""
    text = text[: place.start()] if place else text
    if match := _UNKNOWN.fullmatch(text):
        known = {_joined(path, key): key for key in _keys(kind, path)}
        key = _joined(path, match["key"])
        near = difflib.get_close_matches(key, known, 1)
        return f'unknown key "{key}"' + (f'; nearest known key: "{near[0]}"' if near else "")
    if match := _MISSING.fullmatch(text):
        return f'key "{_joined(path, match["key"])}" is missing'
    said = f"{text[:1].lower()}{text[1:]}".replace("`", "")
    if place and place["a_key"]:
        said = f"{said} as a key"
    return f'key "{path}": {said}' if path else said


def placed(error: msgspec.ValidationError, where: str) -> str:
    """The library's own words with the place before them: "spec.containers[0].name: expected `str`, got `int`"."""
    text, at, place = str(error).partition(" - at `$")
    return f"{where}{place.removesuffix('`') if at else ''}: {text[:1].lower()}{text[1:]}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _keys(kind: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """The keys of the Struct at a path like "cluster" or "pools[0].selector"; none where there is no Struct."""
    found: type[msgspec.Struct] | None = kind
    for step in filter(None, _INDEX.sub("", path).split(".")):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(found)} if found else {}
        found = _struct(fields.get(step))
    return found.__struct_encode_fields__ if found else ()


def _struct(hint: Any) -> type[msgspec.Struct] | None:
    """The Struct in a type: itself, or what a list, a dict or an optional is of."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for each in typing.get_args(hint) if (found := _struct(each))), None)
