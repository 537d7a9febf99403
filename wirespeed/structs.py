"""Prepares msgspec structs for threads; turns validation errors into our message format."""

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
    """Return the class after msgspec has collected its type information, in the one thread that imports it.

    Otherwise msgspec does so when it first decodes one; if two threads do that at once, the process ends (SIGSEGV).
    """
    msgspec.json.Decoder(kind)
    return kind


def fault(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """Return 'key "a.b": expected int, got str', or 'unknown key "a.c"; nearest known key: "a.b"'."""
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
    """Return the place and msgspec's own message: "spec.containers[0].name: expected `str`, got `int`".

    If `kind`, the expected Struct, is given, an unknown key or enumeration value is reported with the nearest one.
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
    """Return the error for a wrong value of an enumeration; `value` is in quotes."""
    *first, last = [f'"{choice}"' for choice in _choices(kind, path) if choice]
    expected = f"{', '.join(first)} or {last}" if first else last
    return f"expected {expected}, got {value}{nearest_value(value[1:-1], expected)}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _keys(kind: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """Return the keys of the Struct at a path such as "cluster" or "pools[0].selector"; () without a Struct."""
    found = _struct(_hint(kind, path))
    return found.__struct_encode_fields__ if found else ()


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    """Return the values of the enumeration at a path."""
    return [str(choice) for choice in _literals(_hint(kind, path))]


def _literals(hint: Any) -> list[Any]:
    parts = typing.get_args(hint)
    return (
        list(parts) if typing.get_origin(hint) is typing.Literal else [v for part in parts for v in _literals(part)]
    )


def _hint(kind: type[msgspec.Struct], path: str) -> Any:
    """Return the type at a path; None if it is unknown."""
    found: Any = kind
    for step in filter(None, _INDEX.sub("", path).split(".")):
        inner = _struct(found)
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(inner)} if inner else {}
        found = fields.get(step)
    return found


def _struct(hint: Any) -> type[msgspec.Struct] | None:
    """Return the Struct in a type: the type itself, or the element type of a list, dict or optional."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for each in typing.get_args(hint) if (found := _struct(each))), None)
