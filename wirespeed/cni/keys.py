"""Keys of configurations that are read in any case, and values of a few words: what to say of one not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any


def in_any_case(raw: Mapping[str, Any], known: tuple[str, ...] | frozenset[str]) -> dict[str, Any]:
    """The object with its known keys as `known` writes them, and all others as they are.

    Go's encoding/json, by which the peers and libcni read, finds a key in any case; of a key that is there in two
    spellings the last one counts, except that null says nothing.
    """
    by_fold = _by_fold(known)
    found: dict[str, Any] = {}
    for key, value in raw.items():
        written = by_fold.get(key.casefold(), key)
        if value is not None or written not in found:
            found[written] = value
    return found


@lru_cache(maxsize=32)
def _by_fold(known: tuple[str, ...] | frozenset[str]) -> dict[str, str]:
    return {key.casefold(): key for key in known}


def unknown_key(key: str, known: Iterable[str], *, within: str = "") -> str:
    """'unknown key "spec.vlam"; nearest known key: "spec.vlan"'; `within` leads both, "spec."."""
    import difflib  # noqa: PLC0415 — only for a mistake

    near = difflib.get_close_matches(key, known, 1)
    return f'unknown key "{within}{key}"' + (f'; nearest known key: "{within}{near[0]}"' if near else "")


def nearest(key: str, known: Mapping[str, str], *, within: str = "") -> str:
    """'; nearest known key: "vlan"', or "" where none is near.

    `known` are the keys as they are written, by themselves in lower case; `within` leads them, "host.".
    """
    import difflib  # noqa: PLC0415 — only for a mistake

    near = difflib.get_close_matches(key.lower(), known, 1)
    return f'; nearest known key: "{within}{known[near[0]]}"' if near else ""


def nearest_value(value: object, expected: str) -> str:
    """', the nearest is "auto"', or "" where none is near: `expected` has the known values in double quotes."""
    import difflib  # noqa: PLC0415 — only for a mistake
    import re  # noqa: PLC0415

    known = {each.lower(): each for each in re.findall(r'"([^"]+)"', expected)}
    near = difflib.get_close_matches(value.lower(), known, 1) if isinstance(value, str) else []
    return f', the nearest is "{known[near[0]]}"' if near else ""
