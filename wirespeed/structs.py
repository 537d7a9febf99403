"""Structs that declare configurations: reading a value as one, and messages about a value that does not match."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import nearest_value, unknown_key

T = TypeVar("T")

_PLACE = re.compile(r" - at (?P<a_key>`key` in )?`\$\.?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\[(?P<index>[^\]]*)\]|(?P<key>[^.\[\]]+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")


class Words(NamedTuple):
    """An annotation of a key's type: what is expected, if the type does not say it by itself.

    `expected` continues "expected " in messages. `cell` is for the table in the documentation, in Markdown; "" is
    `expected` without its article. A message about a part of the value is then about the whole value. Messages do
    not show the value of a `secret` key.
    """

    expected: str
    cell: str = ""
    secret: bool = False


class Cell(NamedTuple):
    """An annotation of a key's type: an example of its value for the table in the documentation, in Markdown."""

    text: str


class Only(NamedTuple):
    """An annotation of a key's type: the key has an effect only for one of these: kinds of devices, engines ..."""

    of: frozenset[str]


def only(*of: str) -> Only:
    """Return the annotation of a key that has an effect only for one of `of`."""
    return Only(frozenset(of))


def whole(pattern: str) -> str:
    """Return a regular expression for msgspec.Meta that the whole text has to match.

    In Python, `$` also matches before a newline at the end, which `(?!\\n)` excludes. The JSON Schemas omit that.
    """
    return f"^(?:{pattern})$(?!\\n)"


def prepared(kind: type[T]) -> type[T]:
    """Return the class after msgspec has collected its type information, in the one thread that imports it.

    Otherwise msgspec does so when it first decodes one; if two threads do that at once, the process ends (SIGSEGV).
    """
    msgspec.json.Decoder(kind)
    return kind


def read(value: object, kind: type[T], *, where: str = "") -> T:
    """Convert decoded JSON. Raises CniError(INVALID_CONFIG) that names the key. `where` is the value's path."""
    try:
        return convert(value, kind)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, fault(error, kind, value, where=where)) from error


def convert(value: object, kind: type[T]) -> T:
    """Convert decoded JSON. Raises msgspec.ValidationError, also for text that is not Unicode.

    json.loads decodes "\\ud800" to a lone surrogate. Except where any string will do, msgspec.convert raises
    UnicodeEncodeError for it, without the place.
    """
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError:
        said = _surrogate(value, kind, "$") or "Expected Unicode text"
        raise msgspec.ValidationError(said) from None


def _surrogate(value: object, hint: Any, path: str) -> str:
    """Return the error for the first lone surrogate that does not fit, in the words of msgspec; "" for none."""
    if isinstance(value, str):
        return "" if fits(value, hint) else f"Expected Unicode text - at `{path}`"
    parts: Iterable[tuple[object, Any, str]] = ()
    if isinstance(value, list):
        parts = ((each, _inner(hint), f"{path}[{index}]") for index, each in enumerate(value))
    elif isinstance(value, dict) and struct_of(hint):
        parts = ((each, _field(hint, key), f"{path}.{key}") for key, each in value.items())
        for key in value:
            written = key.encode(errors="backslashreplace").decode()
            if written != key:
                return f"Object contains unknown field `{written}` - at `{path}`"
    elif isinstance(value, dict):
        parts = ((each, _inner(hint), f"{path}[...]") for each in value.values())
    return next((said for part in parts if (said := _surrogate(*part))), "")


def fault(error: msgspec.ValidationError, kind: Any, value: object, *, where: str = "") -> str:
    """Return 'key "a.b": expected true or false, got 1', or 'unknown key "a.c"; nearest known key: "a.b"'.

    `value` is the one that was to be converted to `kind`, and `where` the path of its key.
    """
    match, found = _parsed(error, kind, value)
    inner = _joined(where, found.path)
    if match and match.re is _UNKNOWN:
        return unknown_key(_joined(inner, match["key"]), [_joined(inner, key) for key in _keys(found.hint)])
    if match:
        return f'key "{_joined(inner, match["key"])}" is missing'
    said = _mismatch(found)
    return f'key "{inner}": {said}' if inner else said


def placed(error: msgspec.ValidationError, where: str, kind: Any, value: object) -> str:
    """Return the message with the place before it: 'spec.containers[0].name: expected a string, got 1'.

    `value` is the one that was to be converted to `kind`, and `where` its place.
    """
    match, found = _parsed(error, kind, value)
    place = f"{where}{'' if found.path[:1] in {'', '['} else '.'}{found.path}"
    if match and match.re is _UNKNOWN:
        return f"{place}: {unknown_key(match['key'], _keys(found.hint))}"
    return f"{place}: " + (f'key "{match["key"]}" is missing' if match else _mismatch(found))


def wrong(key: str, wanted: Any, got: object) -> CniError:
    """Return the error for a wrong value of a key: INVALID_CONFIG. `wanted` is a type, or continues "expected "."""
    said = _said(wanted, got) if isinstance(wanted, str) else _mismatch(_Found(key, wanted, got))
    return CniError(Code.INVALID_CONFIG, f'key "{key}": {said}')


class _Found(NamedTuple):
    """A value that an error is about: its path, the type that was expected, and the value."""

    path: str
    hint: Any
    value: object


def _mismatch(found: _Found) -> str:
    if _is_secret(found.hint) or (isinstance(found.value, str | list | dict) and _has_secret(found.hint)):
        return f"expected {expected(found.hint)}; the value is not shown"
    return _said(expected(found.hint), found.value)


def _is_secret(hint: Any) -> bool:
    words = _words(hint)
    return bool(words and words.secret)


def _has_secret(hint: Any) -> bool:
    """Whether a key in a value of the type is secret."""
    kind = struct_of(hint)
    return kind is not None and any(_is_secret(each) or _has_secret(each) for each in types_of(kind).values())


def _said(said: str, got: object) -> str:
    """Return "expected ..., got ...", with the nearest of the expected values."""
    return f"expected {said}, got {shown(got)}{nearest_value(got, said)}"


def shown(value: object) -> str:
    """Return a value for a message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parsed(error: msgspec.ValidationError, kind: Any, value: object) -> tuple[re.Match[str] | None, _Found]:
    """Return the match of _UNKNOWN or _MISSING, None for any other error, and what the error is about."""
    text = str(error)
    whole_text = _UNKNOWN.fullmatch(text)
    if whole_text and isinstance(value, dict) and whole_text["key"] in value:  # also one that looks like a place
        return whole_text, _Found("", kind, value)
    place = _PLACE.search(text)
    path = place["path"] if place else ""
    text = text[: place.start()] if place else text
    found = list(_followed(kind, value, path))
    if match := _UNKNOWN.fullmatch(text) or _MISSING.fullmatch(text):
        return match, found[-1]
    if place and place["a_key"]:
        return None, _Found(found[-1].path, Annotated[Any, Words("a string as each key")], found[-1].value)
    return None, next((each for each in found if _words(each.hint)), found[-1])


def _followed(kind: Any, value: Any, path: str) -> Iterator[_Found]:
    """Yield the value, and each value on the way to a path like "cluster" or "pools[0].selector".

    The library writes `[...]` for any key of an object that is no Struct; the path has that key instead.
    """
    taken, hint = "", kind
    yield _Found(taken, hint, value)
    for step in _STEP.finditer(path):
        key, index = step["key"], step["index"]
        if key is not None:
            hint, value, taken = _field(hint, key), value[key], _joined(taken, key)
        else:
            hint = _inner(hint)
            if index == "...":
                index, value = next((f'"{key}"', each) for key, each in value.items() if not fits(each, hint))
            else:
                value = value[int(index)]
            taken = f"{taken}[{index}]"
        yield _Found(taken, hint, value)


def fits(value: object, hint: Any) -> bool:
    """Whether a value is as declared."""
    try:
        msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):  # see `convert`
        return False
    return True


def options(hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the types of a union without null, each with its annotations; any other type is the only one."""
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


def _choices(hint: Any) -> bool:
    return any(typing.get_origin(kind) is Literal for kind, _ in options(hint))


@lru_cache(maxsize=64)
def limits(kind: type[msgspec.Struct]) -> dict[str, frozenset[str]]:
    """Return the keys of a Struct that have an effect only for some (Only), each with those."""
    return {
        field.encode_name: mark.of
        for field in msgspec.structs.fields(kind)
        for _, marks in options(field.type)
        for mark in marks
        if isinstance(mark, Only)
    }


@lru_cache(maxsize=64)
def types_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the keys of a Struct with their types."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


def keys_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the keys that a Struct declares."""
    return kind.__struct_encode_fields__


def expected(hint: Any) -> str:
    """Return what a type accepts, as "an integer from 1 to 4094" or '"on" or "off"'."""
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
    inner = _element(kind)
    if inner is not None and (_words(inner) or _choices(inner)):
        return f"a list, each {expected(inner)}"
    return "a list" + _range(metas, "elements")


_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Any: "any value"}


def _range(metas: list[Meta], counted: str) -> str:
    """Return the limits of a value, as " from 1 to 4094"."""
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
    said = [phrase.format(plain(found[name])) for name, phrase in phrases.items() if name in found]
    return f" {' and '.join(said)}" if said else ""


def plain(pattern: object) -> object:
    """Return the regular expression of a `whole` text as other languages have it; any other value unchanged."""
    return pattern.removesuffix("(?!\\n)") if isinstance(pattern, str) else pattern


def element(hint: Any) -> Any:
    """Return the type of a list's elements or of an object's values; None if the type has none."""
    return next((inner for each, _ in options(hint) if (inner := _element(each)) is not None), None)


def _inner(hint: Any) -> Any:
    inner = element(hint)
    return Any if inner is None else inner


def _element(kind: Any) -> Any:
    args = typing.get_args(kind)
    if not args or typing.get_origin(kind) is Literal:
        return None
    return args[1] if typing.get_origin(kind) is dict else args[0]


def _field(hint: Any, key: str) -> Any:
    kind = struct_of(hint)
    return types_of(kind).get(key, Any) if kind else Any


def _keys(hint: Any) -> tuple[str, ...]:
    kind = struct_of(hint)
    return keys_of(kind) if kind else ()


def struct_of(hint: Any) -> type[msgspec.Struct] | None:
    """Return the Struct among the types of a union."""
    kinds = (kind for kind, _ in options(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
