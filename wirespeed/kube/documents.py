"""Kubernetes objects in files: the documents of a YAML or JSON file, and the objects of a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import kubeyaml

SUFFIXES = (".yaml", ".yml", ".json")
# Maps of strings, in which Kubernetes reads a null value as an empty string.
_STRINGS = frozenset({"annotations", "labels", "data"})
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def read(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the place of each document of the file ("<path>, document <number>"), and its value.

    As with kubectl, a file may be a sequence of JSON objects, whatever its name.

    Raises CniError(INVALID_CONFIG) that names file, document and line, after it has yielded the documents before.
    """
    number = 0
    try:
        text = path.read_text()
        for number, document in enumerate(_values(text, json_only=path.suffix == ".json"), start=1):
            yield f"{path}, document {number}", document
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _refused(f"{path}, document {number + 1}{line}: not YAML: {error.problem}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        reason = " ".join(str(error).split())
        raise _refused(f"{path}, document {number + 1}: not {kind}: {reason}") from error


def objects(document: object, where: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document, each with a kind: itself, or the items of a list kind (List, PodList ...).

    Keys whose value is null are removed. An empty document has no objects. Raises CniError(INVALID_CONFIG) that
    begins with `where`.
    """
    yield from _objects(given(document), where)


def given(value: Any, *, strings: bool = False) -> Any:
    """Return the value without keys that are null: Kubernetes treats them as not given."""
    if isinstance(value, dict):
        return {
            key: "" if part is None else given(part, strings=key in _STRINGS)
            for key, part in value.items()
            if part is not None or strings
        }
    if isinstance(value, list):
        return [given(item) for item in value]
    return value


def _values(text: str, *, json_only: bool) -> Iterator[Any]:
    """Return the documents of a text. JSON is not left to the YAML parser, which accepts no tabs between tokens."""
    if not json_only and not text.lstrip().startswith("{"):
        return kubeyaml.load_all(text)
    try:
        return iter(list(_json_values(text)))
    except ValueError:
        if json_only:
            raise
        return kubeyaml.load_all(text)


def _json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values of a text, which may have several. Raises ValueError."""
    at = _after_space(text, 0)
    while at < len(text):
        value, at = _DECODER.raw_decode(text, at)
        yield value
        at = _after_space(text, at)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _objects(document: object, where: str) -> Iterator[dict[str, Any]]:
    if document is None:
        return
    if not isinstance(document, dict):
        raise _refused(f"{where}: expected an object with kind and metadata, got {type(document).__name__}")
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind:
        raise _refused(f'{where}: key "kind" is missing')
    if kind != "List" and not (kind.endswith("List") and "items" in document):
        yield document
        return
    items = document.get("items")
    if not isinstance(items, list):
        raise _refused(f'{where}: key "items": expected a list')
    for item in items:
        if isinstance(item, dict) and kind != "List":  # items of a typed list may omit kind and apiVersion
            item = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion")} | item  # noqa: PLW2901
        yield from _objects(item, where)


def _refused(text: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, text)
