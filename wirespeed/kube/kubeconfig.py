"""Kubeconfig files as kubectl finds and reads them: several are merged, and relative paths are their own file's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes.config import ConfigException

from wirespeed.errors import Error, Kind
from wirespeed.kube import documents, kubeyaml

# Keys of a cluster and of a user whose values are paths, relative to the file that has them.
_PATHS = {
    "clusters": ("cluster", ("certificate-authority",)),
    "users": ("user", ("client-certificate", "client-key", "tokenFile")),
}
_LISTS = ("clusters", "users", "contexts")


def find(given: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that kubectl would read: `given` (--kubeconfig), those of $KUBECONFIG, or ~/.kube/config.

    Files of $KUBECONFIG that do not exist are left out. Raises Error(INVALID_CONFIG) if there is none.
    """
    if given:
        return (given,)
    listed = [each for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]
    wanted = listed or [os.path.expanduser("~/.kube/config")]
    found = tuple(each for each in wanted if Path(each).exists())
    if not found:
        hint = "--kubeconfig names the file, as for kubectl"
        raise Error(Kind.INVALID_CONFIG, "no such file", where=("kubeconfig", ", ".join(wanted)), hint=hint)
    return found


def read(files: Sequence[str]) -> dict[str, Any]:
    """Return the merged content of the files: of what has the same name, the first file's. Raises as `_read`."""
    merged: dict[str, Any] = {}
    for file in files:
        raw = _read(Path(file))
        for name in _LISTS:
            known = {each["name"] for each in merged.setdefault(name, [])}
            merged[name] += [each for each in raw.get(name) or () if each["name"] not in known]
        if raw.get("current-context"):
            merged.setdefault("current-context", raw["current-context"])
    return merged


def by_name(values: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    """Return the element of a kubeconfig's list with that name; {} if there is none."""
    return next((value for value in values or () if value["name"] == name), {})


def _read(file: Path) -> dict[str, Any]:
    """Return the file's first document, read as kubectl reads it; the client library would read YAML 1.1.

    Paths in it become absolute. Raises ConfigException, OSError, and what YAML of a wrong form raises.
    """
    raw = next(kubeyaml.load_all(file.read_text()), None)
    if not isinstance(raw, dict):
        raise ConfigException(f"expected an object, got {'nothing' if raw is None else type(raw).__name__}")
    found = dict(documents.without_nulls(raw))
    folder = os.path.abspath(file.parent)
    for name, (inner, keys) in _PATHS.items():
        for each in found.get(name) or ():
            value = each.get(inner) or {}
            value.update({key: os.path.join(folder, value[key]) for key in keys if value.get(key)})
    return found
