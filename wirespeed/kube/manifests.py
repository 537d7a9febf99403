"""A cluster read from a folder of manifest files: pods and networks; status is written to a folder inside it."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirespeed import structs
from wirespeed.errors import CombinedError, Error, Kind, Thing, as_error, os_errors
from wirespeed.kube import documents
from wirespeed.kube.cluster import Change, Event, Listener, NotFoundError, is_pod

log = logging.getLogger(__name__)

_NAD = "NetworkAttachmentDefinition"
_CLAIM, _SLICE = "ResourceClaim", "ResourceSlice"
_VERSIONS = {"Pod": "v1", _NAD: "k8s.cni.cncf.io/v1", _CLAIM: "resource.k8s.io/v1", _SLICE: "resource.k8s.io/v1"}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MIN_AGE = 100_000_000  # ns: a file that changed more recently may change again and keep the same times

Key = tuple[str, str, str]  # kind, namespace, name
_FileState = tuple[int, int, int]  # ctime in ns, inode, size: if one of them changed, the file is read again


@dataclass(frozen=True, kw_only=True)
class _File:
    """The content of one file since its last change; `problem` is why some of it could not be read."""

    seen: _FileState | None
    objects: list[tuple[Key, dict[str, Any], str]] = field(default_factory=list)  # with "<path>, document 1"
    problem: Error | None = None


class ManifestCluster:
    """Pods, NetworkAttachmentDefinitions, ResourceClaims and ResourceSlices of the *.yaml, *.yml and *.json files
    in `folder` (not in its subfolders).

    Files may contain several documents and List kinds; other kinds are ignored. A file is read again when it
    changes. The status of a pod is written to `<folder>/.status/<namespace>_<name>.json`.
    A lookup raises Error(INVALID_CONFIG) that names file and document if two documents define the object, or if
    it is not found and a file cannot be read, as it may be in that file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()

    def pod(self, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        found = self._find("Pod", namespace, name)
        if not is_pod(found, uid):
            text = f"its UID in {self.folder} is {found['metadata']['uid']}, not {uid}"
            raise NotFoundError(text, where=Thing("pod", f"{namespace}/{name}"))
        return found

    def whole_pod(self, namespace: str, name: str) -> dict[str, Any]:
        return self._find("Pod", namespace, name)

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        return self._find(_NAD, namespace, name)

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        return self._find(_CLAIM, namespace, name)

    def slices(self, driver: str, *, fresh: bool = False) -> list[dict[str, Any]]:  # noqa: ARG002 — always is
        with self._lock:
            files = self._current()
        values = [value for file in files for (kind, _, _), value, _ in file.objects if kind == _SLICE]
        return [value for value in values if (value.get("spec") or {}).get("driver") == driver]

    def set_network_status(self, namespace: str, name: str, uid: str, status: list[dict[str, Any]]) -> None:
        """Write the pod's status file, atomically. Raises NotFoundError, Error(IO)."""
        self.pod(namespace, name, uid)
        self._write("network-status", self.status_file(namespace, name), status)

    def annotate(self, namespace: str, name: str, uid: str, change: Change) -> None:
        """Write the pod's annotations file, atomically; its manifest is not changed."""
        pod, path = self.pod(namespace, name, uid), self.annotations_file(namespace, name)
        with self._lock:
            try:
                known = json.loads(path.read_text())
            except FileNotFoundError:
                known = {}
            except OSError as error:
                raise as_error(error, f"annotations {path}") from error
            except ValueError as error:
                raise Error(Kind.IO, f"not JSON: {error}", where=f"annotations {path}") from error
            self._write("annotations", path, {**known, **change({**pod["metadata"]["annotations"], **known})})

    def _write(self, what: str, path: Path, value: object) -> None:
        new = path.with_name(f".{path.name}.{threading.get_ident()}")
        try:
            path.parent.mkdir(exist_ok=True)
            new.write_text(json.dumps(value, indent=4) + "\n")
            os.replace(new, path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise as_error(error, f"{what} {path}") from error

    @property
    def status_folder(self) -> Path:
        """The folder of all files that are written about pods."""
        return self.folder / ".status"

    def status_file(self, namespace: str, name: str) -> Path:
        """Return the file with a pod's network-status: the JSON list of its annotation."""
        return self.status_folder / f"{namespace}_{name}.json"

    def annotations_file(self, namespace: str, name: str) -> Path:
        """Return the file with the annotations that `annotate` added to a pod: a JSON object of strings."""
        return self.status_folder / f"{namespace}_{name}.annotations.json"

    def event(self, event: Event) -> None:
        """Log the event, as a folder has no place for it."""
        level = logging.WARNING if event.warning else logging.INFO
        name = f"{event.namespace}/{event.name}" if event.kind == "Pod" else event.name
        log.log(level, "event of %s %s: %s: %s", event.kind.lower(), name, event.reason, event.message)

    def on_pod_change(self, listener: Listener) -> None:
        """Do nothing: files are not watched, only read at each lookup."""

    def stop_retries(self) -> None:
        """Do nothing: no call waits."""

    def check(self) -> None:
        """Raise Error(IO) if the folder cannot be read."""
        with self._lock:
            self._current()

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _find(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        key = (kind, namespace, name)
        with self._lock:
            files = self._current()
        found = [(value, where) for file in files for k, value, where in file.objects if k == key]
        wanted = Thing(kind, f"{namespace}/{name}")
        if len(found) > 1:
            raise Error(Kind.INVALID_CONFIG, f"defined twice: {found[0][1]} and {found[1][1]}", where=wanted)
        if found:
            return found[0][0]
        missing = NotFoundError(f"no manifest in {self.folder} defines it", where=wanted)
        if problems := [file.problem for file in files if file.problem]:
            raise CombinedError([missing, *problems], between="; not all can be read: ")
        raise missing

    def _current(self) -> list[_File]:
        """Return all files as they are now, sorted by name."""
        files = {}
        with os_errors(f"manifests in {self.folder}"), os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(documents.SUFFIXES))
        for name in names:
            path = self.folder / name
            if name.startswith(".") or not path.is_file():  # an editor's file, a folder, or deleted meanwhile
                continue
            seen, known = _file_state(path), self._files.get(name)
            files[name] = known if known and seen and known.seen == seen else _read(path, seen)
        self._files = files
        return list(files.values())


def _file_state(path: Path) -> _FileState | None:
    """Return what shows whether a file changed; None if nothing does, as it changed just now."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ctime_ns, stat.st_ino, stat.st_size) if time.time_ns() - stat.st_ctime_ns > _MIN_AGE else None


def _read(path: Path, seen: _FileState | None) -> _File:
    objects: list[tuple[Key, dict[str, Any], str]] = []
    problem: Error | None = None
    try:
        for where, document in documents.read(path):
            try:
                found = [_check_object(value, where) for value in documents.objects(document, where)]
            except Error as error:
                problem = problem or error
            else:
                objects += [(_key(value), value, where) for value in found if value["kind"] in _VERSIONS]
    except Error as error:
        problem = problem or error
    if problem:
        log.warning("manifest %s", problem)
    return _File(seen=seen, objects=objects, problem=problem)


def _check_object(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Check the types of what is read later, and fill in the namespace. Raises Error(INVALID_CONFIG)."""
    kind = value["kind"]
    if kind not in _VERSIONS:
        return value
    if value.get("apiVersion") != _VERSIONS[kind]:
        raise structs.wrong("apiVersion", _VERSIONS[kind], value.get("apiVersion")).within(where, kind)
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        raise structs.wrong("metadata", "an object", metadata).within(where, kind)
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    for key, text in (("name", name), ("namespace", namespace)):
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise structs.wrong(f"metadata.{key}", "lower-case letters, digits, - and .", text).within(where, kind)
    places = (where, Thing(kind, f"{namespace}/{name}"))
    uid, annotations, spec = metadata.get("uid"), metadata.get("annotations") or {}, value.get("spec")
    if not isinstance(uid or "", str):
        raise structs.wrong("metadata.uid", "a string", uid).within(*places)
    if not isinstance(annotations, dict) or not all(isinstance(v, str) for v in annotations.values()):
        raise structs.wrong("metadata.annotations", "an object of strings", annotations).within(*places)
    if not isinstance(spec or {}, dict):
        raise structs.wrong("spec", "an object", spec).within(*places)
    return {**value, "metadata": {**metadata, "namespace": namespace, "annotations": annotations}}


def _key(value: dict[str, Any]) -> Key:
    return value["kind"], value["metadata"]["namespace"], value["metadata"]["name"]
