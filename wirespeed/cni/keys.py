"""Keys of configurations that are read in any case, and values of a few words: what to say of one not known."""

from __future__ import annotations

from collections.abc import Mapping


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
