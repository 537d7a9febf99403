"""A cluster that is a folder of manifest files: its pods and networks, and the status written beside them."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube.cluster import NotFoundError, is_pod

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
_NAD = "NetworkAttachmentDefinition"
_VERSIONS = {"Pod": "v1", _NAD: "k8s.cni.cncf.io/v1"}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, kw_only=True)
class _File:
    """What one file held when it last changed; `problem` is why the rest of it could not be read."""

    seen: tuple[int, int, int]  # mtime in ns, inode, size: a change of any means: read again
    objects: list[tuple[Key, dict[str, Any], str]] = field(default_factory=list)  # with where it stands
    problem: str = ""


class _ManifestError(Exception):
    """A document cannot be used; the text says why."""


class ManifestCluster:
    """Pods and NetworkAttachmentDefinitions of the *.yaml, *.yml and *.json files in `folder` (not below it).

    Files may hold several documents and List kinds; other kinds are passed over. A file is read again when
    it changed. The status of a pod is written to `<folder>/.status/<namespace>_<name>.json`.
    A lookup raises CniError(INVALID_CONFIG) that names file and document when what it looks for is not
    found and a file cannot be read, for it may be in there; or when two documents define it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        found = self._find("Pod", namespace, name)
        if not is_pod(found, uid):
            raise NotFoundError(
                f"pod {namespace}/{name} in {self.folder}: its UID is {found['metadata']['uid']}, not {uid}"
            )
        return found

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        return self._find(_NAD, namespace, name)

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        """Write the pod's status file, atomically. Raises NotFoundError, CniError(IO_FAILURE)."""
        self.pod(namespace, name, uid)
        path = self.status_file(namespace, name)
        new = path.with_name(f".{path.name}.{threading.get_ident()}")
        try:
            path.parent.mkdir(exist_ok=True)
            new.write_text(json.dumps(status, indent=4) + "\n")
            os.replace(new, path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise CniError(Code.IO_FAILURE, f"network-status {path}: {error.strerror}") from error

    def status_file(self, namespace: str, name: str) -> Path:
        """Where the network-status of a pod lies: the JSON list of its annotation."""
        return self.folder / ".status" / f"{namespace}_{name}.json"

    def check(self) -> None:
        """Raise CniError(IO_FAILURE) where the folder cannot be read."""
        with self._lock:
            self._current()

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        key = (kind, namespace, name)
        with self._lock:
            files = self._current()
        found = [(value, where) for file in files for k, value, where in file.objects if k == key]
        if len(found) > 1:
            raise CniError(
                Code.INVALID_CONFIG, f"{kind} {namespace}/{name} is defined twice: {found[0][1]} and {found[1][1]}"
            )
        if found:
            return found[0][0]
        if problems := [file.problem for file in files if file.problem]:
            raise CniError(Code.INVALID_CONFIG, f"{kind} {namespace}/{name} not found; {'; '.join(problems)}")
        raise NotFoundError(f"{kind} {namespace}/{name}: no manifest in {self.folder} defines it")

    def _current(self) -> list[_File]:
        """All files as they are now, by name."""
        files = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
                        stat = entry.stat()
                        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                        known = self._files.get(entry.name)
                        files[entry.name] = known if known and known.seen == seen else _read(Path(entry.path), seen)
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"manifests in {self.folder}: {error.strerror}") from error
        self._files = files
        return list(files.values())


def _read(path: Path, seen: tuple[int, int, int]) -> _File:
    objects: list[tuple[Key, dict[str, Any], str]] = []
    problem = ""
    try:
        for number, document in _documents(path):
            where = f"{path}, document {number}"
            try:
                objects += [(_key(value), value, where) for value in _flattened(document)]
            except _ManifestError as error:
                problem = problem or f"{where}: {error}"
    except _ManifestError as error:
        problem = str(error)
    if problem:
        log.warning("manifest %s", problem)
    return _File(seen=seen, objects=objects, problem=problem)


def _documents(path: Path) -> Iterator[tuple[int, object]]:
    """(number from 1, content) of each document. Raises _ManifestError that says file, document and line."""
    number = 0
    try:
        text = path.read_text()
        # JSON is YAML, except that YAML's own reader takes no tabs between its tokens.
        documents = iter([json.loads(text)]) if path.suffix == ".json" else yaml.load_all(text, Loader=_Loader)
        for number, document in enumerate(documents, start=1):
            yield number, document
    except OSError as error:
        raise _ManifestError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _ManifestError(f"{path}, document {number + 1}{line}: not YAML: {error.problem}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise _ManifestError(
            f"{path}, document {number + 1}: not {kind}: {' '.join(str(error).split())}"
        ) from error


def _flattened(document: object) -> Iterator[dict[str, Any]]:
    """The Pods and NetworkAttachmentDefinitions of a document; _ManifestError says what is wrong with one."""
    if document is None:  # nothing between two "---"
        return
    if not isinstance(document, dict):
        raise _ManifestError(f"expected an object with kind and metadata, got {type(document).__name__}")
    kind = document.get("kind")
    if not isinstance(kind, str):
        raise _ManifestError('key "kind" is missing')
    if kind.endswith("List") and "items" in document:
        items = document["items"]
        if not isinstance(items, list):
            raise _ManifestError('key "items": expected a list')
        for item in items:
            if isinstance(item, dict):  # a typed list's items need not repeat kind and apiVersion
                item = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion")} | item  # noqa: PLW2901
            yield from _flattened(item)
    elif kind in _VERSIONS:
        yield _checked(kind, document)


def _checked(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """The object with its namespace filled in, if what is read of it later has the right types."""
    if value.get("apiVersion") != _VERSIONS[kind]:
        raise _ManifestError(
            f'{kind}: key "apiVersion": expected {_VERSIONS[kind]}, got {value.get("apiVersion")!r}'
        )
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise _ManifestError(f'{kind}: key "metadata.name" is missing')
    for key in ("namespace", "uid"):
        if not isinstance(metadata.get(key, ""), str):
            raise _ManifestError(f'{kind} {metadata["name"]}: key "metadata.{key}": expected a string')
    annotations = metadata.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(v, str) for v in annotations.values()):
        raise _ManifestError(f'{kind} {metadata["name"]}: key "metadata.annotations": expected strings')
    if not isinstance(value.get("spec") or {}, dict):
        raise _ManifestError(f'{kind} {metadata["name"]}: key "spec": expected an object')
    namespace = metadata.get("namespace") or "default"
    return {**value, "metadata": {**metadata, "namespace": namespace, "annotations": annotations}}


def _key(value: dict[str, Any]) -> Key:
    return value["kind"], value["metadata"]["namespace"], value["metadata"]["name"]
