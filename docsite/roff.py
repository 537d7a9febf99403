"""Text and Markdown as input of man(7): escaped, each sentence on lines of its own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`([^`]*)`")
_WORDS = re.compile(r"[A-Z][A-Z-]+\b")
_SENTENCE = re.compile(r"(?<=[.:;?!])\s+(?=[A-Z`\\])")
_SPECIAL = {"\\": "\\e", "^": "\\(ha", "~": "\\(ti", "'": "\\(aq", "`": "\\(ga", "…": "..."}


def text(markdown: str) -> str:
    """Return a paragraph: code is bold, a link is its text."""
    plain = _LINK.sub(r"\1", " ".join(markdown.split()))
    parts = _CODE.split(plain)
    marked = "".join(code(part) if number % 2 else escaped(part) for number, part in enumerate(parts))
    return lines(each for sentence in _SENTENCE.split(marked) for each in _wrapped(sentence))


def code(content: str) -> str:
    """Return what a user types, in bold."""
    return f"\\fB{escaped(content, hyphens=True)}\\fR" if content else ""


def argument(content: str) -> str:
    """Return what stands for a value, in italics."""
    return f"\\fI{escaped(content, hyphens=True)}\\fR"


def usage(content: str) -> str:
    """Return a command line or an option: the words in capitals stand for values, all others are typed."""
    shown = [
        argument(word)
        if _WORDS.match(word.lstrip("["))
        else code(word)
        if word[:1].isalnum() or word[:1] == "-"
        else escaped(word)
        for word in content.split(" ")
    ]
    return " ".join(shown)


def literal(content: str) -> str:
    """Return lines that are shown as they are, indented; after text, they need a `.PP` before them."""
    return "\n".join([".RS 4", ".nf", *map(_line, escaped(content, hyphens=True).splitlines()), ".fi", ".RE"])


def tagged(tag: str, markdown: str) -> str:
    """Return an entry of a list: a tag, which is roff already, and its paragraph."""
    return f".TP\n{tag}\n{text(markdown)}"


def section(title: str, *blocks: str) -> str:
    return "\n".join([f".SH {title}", *blocks])


def page(name: str) -> str:
    """Return a reference to a page of the manual, such as "wirespeed-vf(1)"."""
    title, _, number = name.rstrip(")").partition("(")
    return f"\\fB{escaped(title, hyphens=True)}\\fR({number})"


def escaped(content: str, *, hyphens: bool = False) -> str:
    """Return text of which roff interprets nothing. With `hyphens`, "-" is the character that people type."""
    found = "".join(_SPECIAL.get(each, each) for each in content)
    found = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in found)
    return found.replace("-", "\\-") if hyphens else found


def lines(each: Iterable[str]) -> str:
    return "\n".join(map(_line, each))


def _line(content: str) -> str:
    """Return a line that roff does not take for a macro."""
    return f"\\&{content}" if content.startswith((".", "'")) else content


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, width=78, break_long_words=False, break_on_hyphens=False) or [""]
