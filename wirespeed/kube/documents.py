"""Kubernetes objects in files: the documents of a YAML or JSON file, and the objects of a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from wirespeed.cni.errors import CniError, Code

SUFFIXES = (".yaml", ".yml", ".json")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path) -> Iterator[tuple[str, object]]:
    """Where each document of the file stands ("<path>, document <number>"), and what it holds; one for JSON.

    Raises CniError(INVALID_CONFIG) that says file, document and line, after the documents before it.
    """
    number = 0
    try:
        text = path.read_text()
        # JSON is YAML, except that YAML's own reader takes no tabs between its tokens.
        documents = iter([json.loads(text)]) if path.suffix == ".json" else yaml.load_all(text, Loader=_Loader)
        for number, document in enumerate(documents, start=1):
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
    """The objects of a document, each with a kind: itself, or the items of a list kind (List, PodList ...).

    Nothing between two "---" is no object. Raises CniError(INVALID_CONFIG) that begins with `where`.
    """
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
        if isinstance(item, dict) and kind != "List":  # a typed list's items need not repeat what they are
            item = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion")} | item  # noqa: PLW2901
        yield from objects(item, where)


def _refused(text: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, text)
