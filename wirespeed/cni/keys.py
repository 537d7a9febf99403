"""Case-insensitive keys of configurations, and suggestions for unknown keys and values in error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any


def in_any_case(raw: Mapping[str, Any], known: tuple[str, ...] | frozenset[str]) -> dict[str, Any]:
    """Return the object with its known keys in the spelling of `known`, and all others unchanged.

    Go's encoding/json, which libcni and other plugins use, matches keys case-insensitively. If a key appears in
    two spellings, the last one counts, except that a null never replaces a value. Go does the same for strings,
    numbers, booleans and structs; of a slice, map or pointer, null would remove the value there.
    """
    by_fold = _by_fold(known)
    found: dict[str, Any] = {}
    for key, value in raw.items():
        written = by_fold.get(key.casefold(), key)
        if value is not None or written not in found:
            found[written] = value
    return found


def known_in_any_case(
    raw: Mapping[str, Any], known: tuple[str, ...] | frozenset[str], unknown: Callable[[str], None]
) -> dict[str, Any]:
    """Return the object like `in_any_case`, without the unknown keys; call `unknown` with each of them."""
    found = in_any_case(raw, known)
    for key in [key for key in found if key not in known]:
        unknown(key)
        del found[key]
    return found


@lru_cache(maxsize=32)
def _by_fold(known: tuple[str, ...] | frozenset[str]) -> dict[str, str]:
    return {key.casefold(): key for key in known}


def unknown_key(key: object, known: Iterable[str], *, within: str = "") -> str:
    """Return 'unknown key "spec.vlam"; nearest known key: "spec.vlan"'; `within` ("spec.") prefixes both.

    Of a long key, only the beginning is shown. Characters that are not printable are escaped.
    """
    text = str(key)
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:64])
    by_fold = {name.lower(): name for name in sorted(known)}
    return f'unknown key "{within}{shown}"{nearest(text, by_fold, within=within)}'


def nearest(key: str, known: Mapping[str, str], *, within: str = "") -> str:
    """Return '; nearest known key: "vlan"', or "" if none is similar.

    `known` maps each key in lower case to its spelling; `within` ("host.") is the prefix of the suggestion.
    """
    import difflib  # noqa: PLC0415 — only for a mistake

    near = difflib.get_close_matches(key.lower(), known, 1)
    return f'; nearest known key: "{within}{known[near[0]]}"' if near else ""


def nearest_value(value: object, expected: str) -> str:
    """Return ', the nearest is "auto"', or "" if none is similar; `expected` has the values in double quotes."""
    import difflib  # noqa: PLC0415 — only for a mistake
    import re  # noqa: PLC0415

    known = {each.lower(): each for each in re.findall(r'"([^"]+)"', expected)}
    near = difflib.get_close_matches(value.lower(), known, 1) if isinstance(value, str) else []
    return f', the nearest is "{known[near[0]]}"' if near else ""
