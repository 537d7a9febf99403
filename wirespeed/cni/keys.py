"""Keys of configurations that are read in any case: what to say of one that is not known."""

from __future__ import annotations

from collections.abc import Mapping


def nearest(key: str, known: Mapping[str, str], *, within: str = "") -> str:
    """'; nearest known key: "vlan"', or "" where none is near.

    `known` are the keys as they are written, by themselves in lower case; `within` leads them, "host.".
    """
    import difflib  # noqa: PLC0415 — only for a mistake

    near = difflib.get_close_matches(key.lower(), known, 1)
    return f'; nearest known key: "{within}{known[near[0]]}"' if near else ""
