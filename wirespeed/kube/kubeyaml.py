"""YAML as Kubernetes reads it: with the results of sigs.k8s.io/yaml, the library of kubectl and the kubelet.

It differs from YAML 1.1, which PyYAML reads: there are no numbers in base 60 (0000:18:00.0 and 52:54:00:12:34:56
are strings), dates are strings, y and n are booleans, 0o17 and 1e3 are numbers, unknown tags are ignored. The
result is JSON: keys become strings, and what JSON lacks is refused (.inf, .nan, null or a list as a key).
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import math
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _MERGE = f"{_TAG}null", f"{_TAG}bool", f"{_TAG}merge"
_NUMBER = "number"  # the tag of a plain scalar that may be a number
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NOT_FINITE = {
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(
    r"([-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<binary>[01]+)|0[oO]?(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))"
)
_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_LONGEST = 66  # characters of a 64-bit number
_DIGITS = "[0-9](?:_?[0-9])*"
_FLOAT = re.compile(rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?{_DIGITS})?")
_LEAST, _MOST, _MOST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1  # Go's int64 and uint64
_IN_PROGRESS = object()  # placeholder for the value of a node that is being constructed

_CLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Loader(_CLoader):  # type: ignore[misc]
    """A PyYAML loader that reads documents as Kubernetes does."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_document(self, node: yaml.Node) -> Any:
        """Return the value of a document's node. Raises ConstructorError with the place of the error."""
        return _value(node, {})


class _Dumper(_CDumper):  # type: ignore[misc]
    """Quotes strings that a reader of YAML 1.1 or Kubernetes would not read as strings."""

    yaml_implicit_resolvers: ClassVar = {
        first: [*known] for first, known in _CDumper.yaml_implicit_resolvers.items()
    }


for _kind in (Loader, _Dumper):
    for _tag, _pattern, _first in (
        (_NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
        (_BOOL, rf"(?:{'|'.join(word for word, value in _WORDS.items() if value is not None)})\Z", [*"yYnNtTfFoO"]),
        (_MERGE, r"<<\Z", ["<"]),
        (_NUMBER, r"[-+.0-9][-+.0-9a-zA-Z_]*\Z", [*"-+.0123456789"]),
    ):
        _kind.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def load(text: str | bytes) -> Any:
    """Parse a text with at most one document. Raises yaml.YAMLError, RecursionError."""
    documents = list(load_all(text))
    if len(documents) > 1:
        raise yaml.YAMLError(f"expected one document, got {len(documents)}")
    return documents[0] if documents else None


def load_all(text: str | bytes) -> Iterator[Any]:
    """Parse the documents of a text. Raises yaml.YAMLError, RecursionError."""
    return yaml.load_all(text, Loader=Loader)


def dump(value: Any) -> str:
    """Serialize a value so that this module and readers of YAML 1.1 read the same value back."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def key(node: yaml.Node) -> str:
    """Return a mapping's key as in JSON. Raises ConstructorError."""
    value = _scalar(node) if isinstance(node, yaml.ScalarNode) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value <= _MOST:
        return str(value)
    if isinstance(value, float):
        return _float_key(value)
    raise _wrong(node, f"expected a string as a key, got {_describe(node)}")


def is_merge(node: yaml.Node) -> bool:
    """Whether a key is the merge key "<<", whose value is a mapping to merge or a list of them."""
    return bool(node.tag == _MERGE)


def merge_sources(node: yaml.Node) -> list[yaml.Node]:
    """Return the mappings under a merge key, in ascending precedence."""
    sources = node.value[::-1] if isinstance(node, yaml.SequenceNode) else [node]
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            raise _wrong(source, f"expected a mapping or a list of mappings to merge, got {_describe(source)}")
    return sources


# Values of nodes


def _value(node: yaml.Node, made: dict[int, Any]) -> Any:
    """Return the node's value; `made` has the values of collections by the id() of their node, for aliases."""
    if isinstance(node, yaml.ScalarNode):
        return _json(_scalar(node), node)
    known = made.get(id(node))
    if known is _IN_PROGRESS:
        raise _wrong(node, "expected a value, got one that contains itself")
    if known is not None:
        return known
    made[id(node)] = _IN_PROGRESS
    if isinstance(node, yaml.SequenceNode):
        value: Any = [_value(item, made) for item in node.value]
    else:
        value = {}
        _fill(value, node, made)
    made[id(node)] = value
    return value


def _fill(value: dict[str, Any], node: yaml.Node, made: dict[int, Any]) -> None:
    """Add the node's keys to the value, in order: of duplicate keys the last one counts, merged or not."""
    for key_node, value_node in node.value:
        if is_merge(key_node):
            for source in merge_sources(value_node):
                value |= _value(source, made)
        else:
            value[key(key_node)] = _value(value_node, made)


def _scalar(node: yaml.ScalarNode) -> bool | int | float | str | None:
    """Return the value of a scalar; with an unknown tag it is a string."""
    text: str = node.value
    if node.tag == _NUMBER:
        number = _number(text)
        return text if number is None else number
    kind = node.tag.removeprefix(_TAG)
    if kind in {"null", "bool"}:
        if text in _WORDS and (_WORDS[text] is None) == (kind == "null"):
            return _WORDS[text]
    elif kind in {"int", "float"}:
        number = _number(text)
        if number is not None and (kind == "float" or isinstance(number, int)):
            return float(number) if kind == "float" else number
    elif kind == "binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode(errors="replace")
        except (binascii.Error, ValueError):
            pass
    else:
        return text
    raise _wrong(node, f"expected a text that is !!{kind}, got {_describe(node)}")


def _number(text: str) -> int | float | None:
    """Parse a number; None if the text is none. An integer of more than 64 bits becomes a float."""
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    plain = text if text.startswith(".") else text.replace("_", "")
    match = _INTEGER.fullmatch(plain)
    if match and len(plain) <= _LONGEST:
        kind = match.lastgroup or ""
        value = int(match[1] + match[kind], _BASES[kind])
        if _LEAST <= value <= (_MOST if match[1] else _MOST_UNSIGNED):
            return value
    if _FLOAT.fullmatch(plain) and math.isfinite(number := float(plain)):
        return number
    return None


def _json(value: bool | int | float | str | None, node: yaml.Node) -> bool | int | float | str | None:
    """Return the value as it is after conversion to JSON and back: 1.0 becomes the integer 1."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _wrong(node, f"expected a number that JSON has, got {_describe(node)}")
        if value.is_integer() and abs(value) <= _MOST:
            return int(value)
    return value


def _float_key(value: float) -> str:
    """Return the shortest text that is the same 32-bit float, formatted as in Go."""
    narrow = ctypes.c_float(value).value
    if not math.isfinite(narrow):
        return ".nan" if math.isnan(narrow) else ".inf" if narrow > 0 else "-.inf"
    digits = next(digits for digits in range(17) if ctypes.c_float(float(f"{narrow:.{digits}e}")).value == narrow)
    text = f"{narrow:.{digits}e}"
    exponent = int(text.partition("e")[2])
    return text if exponent < -4 or exponent > 5 else f"{float(text):.{max(digits - exponent, 0)}f}"


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.value else "null"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def _wrong(node: yaml.Node, text: str) -> ConstructorError:
    return ConstructorError(None, None, text, node.start_mark)
