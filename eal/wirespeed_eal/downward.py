"""Reads a Downward API file: one annotation per line, its value quoted as by Go's strconv.Quote."""

from __future__ import annotations

import re

_LINE = re.compile(r'([^=\n]+)="((?:[^"\\]|\\.)*)"\s*')
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def read(text: str) -> dict[str, str]:
    """Return the annotations by name; other lines are ignored."""
    matches = map(_LINE.fullmatch, text.split("\n"))
    return {match[1]: unquote(match[2]) for match in matches if match}


def unquote(text: str) -> str:
    """Undo Go's quoting; invalid UTF-8 becomes U+FFFD."""
    # Escapes such as \xff are bytes of the UTF-8 text, so everything is converted to bytes first.
    pieces, end = [], 0
    for match in _ESCAPE.finditer(text):
        pieces += [text[end : match.start()].encode(errors="replace"), _escaped(match)]
        end = match.end()
    return b"".join([*pieces, text[end:].encode(errors="replace")]).decode(errors="replace")


def _escaped(match: re.Match[str]) -> bytes:
    byte, short, long, octal, simple = match.groups()
    if byte:
        return bytes([int(byte, 16)])
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if simple:
        return _SIMPLE.get(simple, simple).encode()
    code = int(short or long, 16)
    return (chr(code) if code < 0x110000 else "\ufffd").encode(errors="replace")
