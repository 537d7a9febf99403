"""Structs: made ready for several threads; and what is wrong with a value that fits none, as everywhere here."""

from __future__ import annotations

import re
import typing
from typing import Any, TypeVar

import msgspec

from wirespeed.cni.keys import nearest_value, unknown_key

T = TypeVar("T")

_PLACE = re.compile(r" - at (?P<a_key>`key` in )?`\$\.?(?P<path>[^`]*)`$")
_INDEX = re.compile(r"\[[^\]]*\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")
_CHOICE = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)


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
        return unknown_key(_joined(path, match["key"]), known)
    if match := _MISSING.fullmatch(text):
        return f'key "{_joined(path, match["key"])}" is missing'
    if match := _CHOICE.fullmatch(text):
        return f'key "{path}": {_choice(match["value"], kind, path)}'
    said = f"{text[:1].lower()}{text[1:]}".replace("`", "")
    if place and place["a_key"]:
        said = f"{said} as a key"
    return f'key "{path}": {said}' if path else said


def placed(error: msgspec.ValidationError, where: str, kind: Any = None) -> str:
    """The place, and the library's own words: "spec.containers[0].name: expected `str`, got `int`".

    With the Struct that was expected, a key or a value of an enumeration that is not known comes with the nearest.
    """
    text, at, place = str(error).partition(" - at `$")
    place = place.removesuffix("`") if at else ""
    path = place.removeprefix(".")
    said = f"{text[:1].lower()}{text[1:]}"
    known = _struct(kind)
    if known and (match := _UNKNOWN.fullmatch(text)):
        said = unknown_key(match["key"], _keys(known, path))
    elif known and (match := _CHOICE.fullmatch(text)):
        said = _choice(match["value"], known, path)
    return f"{where}{place}: {said}"


def _choice(value: str, kind: type[msgspec.Struct], path: str) -> str:
    """What to say of a value of an enumeration, which comes in quotes."""
    *first, last = [f'"{choice}"' for choice in _choices(kind, path) if choice]
    expected = f"{', '.join(first)} or {last}" if first else last
    return f"expected {expected}, got {value}{nearest_value(value[1:-1], expected)}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _keys(kind: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """The keys of the Struct at a path like "cluster" or "pools[0].selector"; none where there is no Struct."""
    found = _struct(_hint(kind, path))
    return found.__struct_encode_fields__ if found else ()


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    """The values of the enumeration at a path."""
    return [str(choice) for choice in _literals(_hint(kind, path))]


def _literals(hint: Any) -> list[Any]:
    parts = typing.get_args(hint)
    return (
        list(parts) if typing.get_origin(hint) is typing.Literal else [v for part in parts for v in _literals(part)]
    )


def _hint(kind: type[msgspec.Struct], path: str) -> Any:
    """The type at a path; None where nothing is known of it."""
    found: Any = kind
    for step in filter(None, _INDEX.sub("", path).split(".")):
        inner = _struct(found)
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(inner)} if inner else {}
        found = fields.get(step)
    return found


def _struct(hint: Any) -> type[msgspec.Struct] | None:
    """The Struct in a type: itself, or what a list, a dict or an optional is of."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for each in typing.get_args(hint) if (found := _struct(each))), None)
