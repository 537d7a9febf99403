"""Case-insensitive keys of configurations, and suggestions for unknown keys and values in error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from wirespeed.errors import Error, Kind, PathStep


def normalize_case(raw: Mapping[str, Any], known: tuple[str, ...] | frozenset[str]) -> dict[str, Any]:
    """Return the object with its known keys spelled as in `known`, and all other keys unchanged.

    Go's encoding/json, which libcni and other plugins use, matches keys case-insensitively. If a key appears in
    two spellings, the last one counts, except that a null never replaces a value. Go does the same for strings,
    numbers, booleans and structs; for a slice, map or pointer, Go would let the null replace the value.
    """
    by_fold = _by_fold(known)
    found: dict[str, Any] = {}
    for key, value in raw.items():
        written = by_fold.get(key.casefold(), key)
        if value is not None or written not in found:
            found[written] = value
    return found


def drop_unknown(
    raw: Mapping[str, Any], known: tuple[str, ...] | frozenset[str], on_unknown: Callable[[str], None]
) -> dict[str, Any]:
    """Return the object like `normalize_case`, without unknown keys; `on_unknown` is called with each of those."""
    found = normalize_case(raw, known)
    for key in [key for key in found if key not in known]:
        on_unknown(key)
        del found[key]
    return found


@lru_cache(maxsize=32)
def _by_fold(known: tuple[str, ...] | frozenset[str]) -> dict[str, str]:
    return {key.casefold(): key for key in known}


def unknown_key(key: object, known: Iterable[str], *, within: Sequence[PathStep] = (), what: str = "") -> Error:
    """Return the error for an unknown key of the object at `within`, which suggests the most similar known one.

    Of a long key, only the beginning is shown. Characters that are not printable are escaped.
    """
    text = str(key)
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:64])
    return Error(
        Kind.INVALID_CONFIG, what, key=(*within, shown), unknown=True, hint=did_you_mean(similar(text, known))
    )


def did_you_mean(name: str) -> str:
    """Return a hint that suggests `name`; "" if there is no name to suggest."""
    return f'did you mean "{name}"?' if name else ""


def similar(name: object, known: Iterable[str]) -> str:
    """Return the most similar of the known names, whatever its case; "" if none is similar."""
    import difflib  # noqa: PLC0415 — only for a mistake

    spelled = {each.lower(): each for each in sorted(known)}
    near = difflib.get_close_matches(name.lower(), spelled, 1) if isinstance(name, str) else []
    return spelled[near[0]] if near else ""
