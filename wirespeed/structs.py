"""Structs that declare the keys of configurations: conversion of values to them, and errors for wrong values."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from wirespeed.errors import Error, Kind, PathStep, parse_path
from wirespeed.keys import did_you_mean, similar, unknown_key

T = TypeVar("T")

_PLACE = re.compile(r" - at (?P<a_key>`key` in )?`\$\.?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\[(?P<index>[^\]]*)\]|(?P<key>[^.\[\]]+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_QUOTED = re.compile(r'"([^"]+)"')
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")


class Words(NamedTuple):
    """An annotation of a key's type: a description of the expected value, instead of one derived from the type.

    `expected` follows the word "expected" in messages. `cell` is the text for the tables of the documentation, in
    Markdown; "": `expected` without its article. A message about a part of the value names the whole value.
    Messages do not show the value of a `secret` key.
    """

    expected: str
    cell: str = ""
    secret: bool = False


class Cell(NamedTuple):
    """An annotation of a key's type: an example of its value for the table in the documentation, in Markdown."""

    text: str


class Only(NamedTuple):
    """An annotation of a key's type: the key has an effect only for these kinds of devices, engines etc."""

    of: frozenset[str]


def only(*of: str) -> Only:
    """Return the annotation of a key that has an effect only for the kinds in `of`."""
    return Only(frozenset(of))


def whole(pattern: str) -> str:
    """Return a regular expression for msgspec.Meta that must match the whole text.

    In Python, `$` also matches before a newline at the end, which `(?!\\n)` excludes. The JSON Schemas omit that.
    """
    return f"^(?:{pattern})$(?!\\n)"


def prepared(kind: type[T]) -> type[T]:
    """Make msgspec collect the type information of a class now, in the thread that imports the class.

    Otherwise msgspec does this at the first decoding; if two threads do it at once, the process crashes (SIGSEGV).
    """
    msgspec.json.Decoder(kind)
    return kind


def read(value: object, kind: type[T], *, where: str = "") -> T:
    """Convert decoded JSON to `kind`. `where` is the path of the value. Raises Error(INVALID_CONFIG)."""
    try:
        return convert(value, kind)
    except msgspec.ValidationError as error:
        raise error_of(error, kind, value).under(*parse_path(where)) from error


def convert(value: object, kind: type[T]) -> T:
    """Convert decoded JSON to `kind`. Raises msgspec.ValidationError, also for text that is not valid Unicode.

    json.loads decodes "\\ud800" to a lone surrogate. For types that restrict a string, msgspec.convert then raises
    UnicodeEncodeError, which does not contain the path.
    """
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError:
        said = _find_surrogate(value, kind, "$") or "Expected Unicode text"
        raise msgspec.ValidationError(said) from None


def _find_surrogate(value: object, hint: Any, path: str) -> str:
    """Return the message, as msgspec would write it, for the first lone surrogate in the value; "" for none."""
    if isinstance(value, str):
        return "" if fits(value, hint) else f"Expected Unicode text - at `{path}`"
    parts: Iterable[tuple[object, Any, str]] = ()
    if isinstance(value, list):
        parts = ((each, element(hint) or Any, f"{path}[{index}]") for index, each in enumerate(value))
    elif isinstance(value, dict) and struct_of(hint):
        parts = ((each, _field(hint, key), f"{path}.{key}") for key, each in value.items())
        for key in value:
            written = key.encode(errors="backslashreplace").decode()
            if written != key:
                return f"Object contains unknown field `{written}` - at `{path}`"
    elif isinstance(value, dict):
        parts = ((each, element(hint) or Any, f"{path}[...]") for each in value.values())
    return next((said for part in parts if (said := _find_surrogate(*part))), "")


def error_of(error: msgspec.ValidationError, kind: Any, value: object) -> Error:
    """Return Error(INVALID_CONFIG), with the key's path, for an error of converting `value` to `kind`."""
    match, found = _parse_error(error, kind, value)
    if match and match.re is _UNKNOWN:
        struct = struct_of(found.hint)
        return unknown_key(match["key"], keys_of(struct) if struct else (), within=found.path)
    if match:
        return Error(Kind.INVALID_CONFIG, key=(*found.path, match["key"]), missing=True)
    return _mismatch(found)


def wrong(key: str | Sequence[PathStep], wanted: Any, got: object) -> Error:
    """Return Error(INVALID_CONFIG) for a key's wrong value. `wanted` is a type, or the text after "expected"."""
    path = parse_path(key) if isinstance(key, str) else tuple(key)
    return _value_error(path, wanted, got) if isinstance(wanted, str) else _mismatch(_Found(path, wanted, got))


def object_in(outer: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    """Return the object of a key, an empty one if there is none; `where` is the path of `outer`, with a dot.

    Raises Error(INVALID_CONFIG).
    """
    value = outer.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(where + key, dict, value)
    return value


class _Found(NamedTuple):
    """A value that an error concerns: its path, its expected type, and the value itself."""

    path: tuple[PathStep, ...]
    hint: Any
    value: object


def _mismatch(found: _Found) -> Error:
    wanted = expected(found.hint)
    if _is_secret(found.hint) or (isinstance(found.value, str | list | dict) and _has_secret(found.hint)):
        return Error(Kind.INVALID_CONFIG, key=found.path, expected=wanted, hint="the value is not shown")
    return _value_error(found.path, wanted, found.value)


def _value_error(path: tuple[PathStep, ...], wanted: str, got: object) -> Error:
    """Return the error for a wrong value, with the most similar quoted value of `wanted` as a hint."""
    hint = did_you_mean(similar(got, _QUOTED.findall(wanted)))
    return Error(Kind.INVALID_CONFIG, key=path, expected=wanted, got=got, hint=hint)


def _is_secret(hint: Any) -> bool:
    words = _words(hint)
    return bool(words and words.secret)


def _has_secret(hint: Any) -> bool:
    """Whether the type is a Struct that contains a secret key, at any depth."""
    kind = struct_of(hint)
    return kind is not None and any(_is_secret(each) or _has_secret(each) for each in types_of(kind).values())


def _parse_error(error: msgspec.ValidationError, kind: Any, value: object) -> tuple[re.Match[str] | None, _Found]:
    """Return the match of _UNKNOWN or _MISSING (None for any other error), and the value concerned."""
    text = str(error)
    whole_text = _UNKNOWN.fullmatch(text)
    if whole_text and isinstance(value, dict) and whole_text["key"] in value:  # such a key may contain " - at `$"
        return whole_text, _Found((), kind, value)
    place = _PLACE.search(text)
    path = place["path"] if place else ""
    text = text[: place.start()] if place else text
    found = list(_values_along(kind, value, path))
    if match := _UNKNOWN.fullmatch(text) or _MISSING.fullmatch(text):
        return match, found[-1]
    if place and place["a_key"]:
        return None, _Found(found[-1].path, Annotated[Any, Words("a string as each key")], found[-1].value)
    return None, next((each for each in found if _words(each.hint)), found[-1])


def _values_along(kind: Any, value: Any, path: str) -> Iterator[_Found]:
    """Yield the value, then each value along a path like "cluster" or "pools[0].selector".

    msgspec writes `[...]` for every key of an object that is not a Struct; the yielded paths have the real key.
    """
    taken: tuple[PathStep, ...] = ()
    hint = kind
    yield _Found(taken, hint, value)
    for step in _STEP.finditer(path):
        key, index = step["key"], step["index"]
        if key is not None:
            hint, value, taken = _field(hint, key), value[key], (*taken, key)
        else:
            hint = element(hint) or Any
            at = next(key for key, each in value.items() if not fits(each, hint)) if index == "..." else int(index)
            value, taken = value[at], (*taken, at)
        yield _Found(taken, hint, value)


def fits(value: object, hint: Any) -> bool:
    """Whether a value matches a type."""
    try:
        msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):  # see `convert`
        return False
    return True


def options(hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the members of a union, except null, with their annotations; any other type is its only member."""
    marks: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        marks, hint = (*marks, *hint.__metadata__), hint.__origin__
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        for each in typing.get_args(hint):
            for inner, own in options(each):
                yield inner, (*own, *marks)
    elif hint is not type(None):
        yield hint, marks


def _words(hint: Any) -> Words | None:
    return next((mark for _, marks in options(hint) for mark in marks if isinstance(mark, Words)), None)


def _is_choice(hint: Any) -> bool:
    return any(typing.get_origin(kind) is Literal for kind, _ in options(hint))


@lru_cache(maxsize=64)
def restricted_keys(kind: type[msgspec.Struct]) -> dict[str, frozenset[str]]:
    """Return the keys of a Struct that are annotated with Only, and for what they have an effect."""
    return {
        field.encode_name: mark.of
        for field in msgspec.structs.fields(kind)
        for _, marks in options(field.type)
        for mark in marks
        if isinstance(mark, Only)
    }


@lru_cache(maxsize=64)
def types_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


def keys_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return kind.__struct_encode_fields__


KeyPath = tuple[PathStep, ...]
# Called with the path of an unknown key, and the keys that are known there.
OnUnknown = Callable[[KeyPath, tuple[str, ...]], object]


def normalize_keys(
    raw: Mapping[str, Any], kind: type[msgspec.Struct], on_unknown: OnUnknown, path: KeyPath = ()
) -> dict[str, Any]:
    """Return the object, and the objects in it, with keys spelled as the Struct declares them.

    As in Go (see keys.normalize_case), keys are case-insensitive, and null is the same as no key. Unknown keys are
    left out: see OnUnknown. `path` is the path of the object.
    """
    known, parts = _canonical_keys(kind)
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if value is None:
            continue
        name = known.get(key.casefold())
        if name is None:
            on_unknown((*path, key), keys_of(kind))
        elif name in parts:
            found[name] = _normalize_nested(value, *parts[name], on_unknown, (*path, name))
        else:
            found[name] = value
    return found


def _normalize_nested(
    value: Any, kind: type[msgspec.Struct], depth: int, on_unknown: OnUnknown, path: KeyPath
) -> Any:
    """Normalize the keys of an object, or of the objects in lists that are nested `depth` times."""
    if depth and isinstance(value, list):
        return [
            _normalize_nested(each, kind, depth - 1, on_unknown, (*path, index)) for index, each in enumerate(value)
        ]
    return normalize_keys(value, kind, on_unknown, path) if not depth and isinstance(value, dict) else value


@lru_cache(maxsize=64)
def _canonical_keys(
    kind: type[msgspec.Struct],
) -> tuple[dict[str, str], dict[str, tuple[type[msgspec.Struct], int]]]:
    """Return the keys by their case-folded spelling, and `_struct_inside` of the keys that contain a Struct."""
    inside = {key: _struct_inside(hint) for key, hint in types_of(kind).items()}
    return {key.casefold(): key for key in inside}, {key: part for key, part in inside.items() if part is not None}


def _struct_inside(hint: Any, depth: int = 0) -> tuple[type[msgspec.Struct], int] | None:
    """Return the Struct in a type, possibly inside nested lists, and the number of those lists."""
    if (found := struct_of(hint)) is not None:
        return found, depth
    inner = element(hint)
    return None if inner is None else _struct_inside(inner, depth + 1)


def expected(hint: Any) -> str:
    """Describe what a type accepts: "an integer from 1 to 4094", '"on" or "off"'."""
    return " or ".join(dict.fromkeys(_expected(kind, marks) for kind, marks in options(hint))) or "null"


def _expected(kind: Any, marks: tuple[Any, ...]) -> str:
    words = next((mark for mark in marks if isinstance(mark, Words)), None)
    if words:
        return words.expected
    if typing.get_origin(kind) is Literal:
        *first, last = [f'"{choice}"' for choice in typing.get_args(kind) if choice]
        return f"{', '.join(first)} or {last}" if first else last
    metas = [mark for mark in marks if isinstance(mark, Meta)]
    for known, noun in _NOUNS.items():
        if kind is known:
            return noun + _range(metas, "characters")
    if struct_of(kind) or typing.get_origin(kind) is dict or kind is dict:
        return "an object"
    inner = element(kind)
    if inner is not None and (_words(inner) or _is_choice(inner)):
        return f"a list, each {expected(inner)}"
    return "a list" + _range(metas, "elements")


_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Any: "any value"}


def _range(metas: list[Meta], counted: str) -> str:
    """Describe the limits of a value: " from 1 to 4094"."""
    names = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
    found = {name: getattr(meta, name) for meta in metas for name in names if getattr(meta, name) is not None}
    if {"ge", "le"} <= found.keys():
        return f" from {found['ge']} to {found['le']}"
    if {"min_length", "max_length"} <= found.keys():
        return f" of {found['min_length']} to {found['max_length']} {counted}"
    phrases = {
        "gt": "greater than {}",
        "ge": "of at least {}",
        "lt": "less than {}",
        "le": "of at most {}",
        "min_length": f"of at least {{}} {counted}",
        "max_length": f"of at most {{}} {counted}",
        "pattern": "that matches {}",
    }
    said = [phrase.format(portable_pattern(found[name])) for name, phrase in phrases.items() if name in found]
    return f" {' and '.join(said)}".replace(" 1 elements", " 1 element") if said else ""


def portable_pattern(pattern: object) -> object:
    """Return a pattern made by `whole` without the part that only Python needs; any other value unchanged."""
    return pattern.removesuffix("(?!\\n)") if isinstance(pattern, str) else pattern


def element(hint: Any) -> Any:
    """Return the type of a list's elements or of an object's values; None if the type has none."""
    for kind, _ in options(hint):
        args = typing.get_args(kind)
        if args and typing.get_origin(kind) is not Literal:
            return args[1] if typing.get_origin(kind) is dict else args[0]
    return None


def _field(hint: Any, key: str) -> Any:
    kind = struct_of(hint)
    return types_of(kind).get(key, Any) if kind else Any


def struct_of(hint: Any) -> type[msgspec.Struct] | None:
    """Return the Struct among the types of a union."""
    kinds = (kind for kind, _ in options(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)
