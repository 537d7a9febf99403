"""Kubernetes objects in files: the documents of a YAML or JSON file, and the objects of a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from wirespeed.errors import Error, Kind, as_error, under, within
from wirespeed.kube import kubeyaml

SUFFIXES = (".yaml", ".yml", ".json")
# Maps of strings, in which Kubernetes reads a null value as an empty string.
_STRINGS = frozenset({"annotations", "labels", "data"})
_DECODER = json.JSONDecoder()
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


def read(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the place of each document of the file ("<path>, document <number>"), and its value.

    As with kubectl, a file may be a sequence of JSON objects, whatever its name. Raises Error(INVALID_CONFIG) that
    names file, document and line, after it has yielded the documents before.
    """
    number = 0
    try:
        text = path.read_text()
        for number, document in enumerate(_values(text, json_only=path.suffix == ".json"), start=1):
            yield f"{path}, document {number}", document
    except OSError as error:
        raise as_error(error, path).of_kind(Kind.INVALID_CONFIG) from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        where = f"{path}, document {number + 1}{line}"
        raise Error(Kind.INVALID_CONFIG, f"not YAML: {error.problem}", where=where) from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        reason = " ".join(str(error).split())
        where = f"{path}, document {number + 1}"
        raise Error(Kind.INVALID_CONFIG, f"not {kind}: {reason}", where=where) from error


def objects(document: object, where: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document, each with a kind: itself, or the items of a list kind (List, PodList ...).

    Keys whose value is null are removed. An empty document has no objects. Raises Error(INVALID_CONFIG).
    """
    with within(where):
        yield from _objects(without_nulls(document))


def without_nulls(value: Any, *, strings: bool = False) -> Any:
    """Return the value without keys that are null: Kubernetes treats them as not given."""
    if isinstance(value, dict):
        return {
            key: "" if part is None else without_nulls(part, strings=key in _STRINGS)
            for key, part in value.items()
            if part is not None or strings
        }
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _values(text: str, *, json_only: bool) -> Iterator[Any]:
    """Return the documents of a text. JSON is not left to the YAML parser, which accepts no tabs between tokens."""
    if json_only or text.lstrip().startswith("{"):
        try:
            return iter(list(_json_values(text)))
        except ValueError:
            if json_only:
                raise
    return kubeyaml.load_all(text)


def _json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values of a text, which may have several. Raises ValueError."""
    at = 0
    while found := _NOT_SPACE.search(text, at):
        value, at = _DECODER.raw_decode(text, found.start())
        yield value


def _objects(document: object) -> Iterator[dict[str, Any]]:
    if document is None:
        return
    if not isinstance(document, dict):
        raise Error(Kind.INVALID_CONFIG, expected="an object with kind and metadata", got=document)
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind:
        raise Error(Kind.INVALID_CONFIG, key="kind", missing=True)
    if kind != "List" and not (kind.endswith("List") and "items" in document):
        yield document
        return
    items = document.get("items")
    if not isinstance(items, list):
        raise Error(Kind.INVALID_CONFIG, key="items", expected="a list", got=items)
    for index, item in enumerate(items):
        if isinstance(item, dict) and kind != "List":  # items of a typed list may omit kind and apiVersion
            item = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion")} | item  # noqa: PLW2901
        with under("items", index):
            yield from _objects(item)
