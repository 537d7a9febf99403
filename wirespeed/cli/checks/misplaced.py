"""Requests for networks that have no effect: misspelt annotation keys, or annotations on the wrong object."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.places import Place, object_at
from wirespeed.errors import parse_path
from wirespeed.keys import unknown_key
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.plugins.meta.selection import DEFAULT_NETWORK, NETWORKS

_READ = {key.lower(): key for key in (NETWORKS, DEFAULT_NETWORK, RESOURCE_NAME)}
# Similar keys with other meanings: the attached networks, and the nodes that have a network.
_OTHERS = frozenset(
    f"k8s.v1.cni.cncf.io/{name}" for name in ("network-status", "networks-status", "nodeSelector", "policy-for")
)
_MIN_SIMILARITY = 0.9  # difflib's ratio above which a key counts as misspelt
_METADATA = (
    *("annotations", "labels", "name", "namespace", "generateName", "uid", "ownerReferences", "finalizers"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields"),
    *("resourceVersion", "selfLink", "clusterName"),
)


def keys(metadata: Any, place: Place, what: str = "metadata") -> Iterator[Finding]:
    """Find keys in an object's metadata that look like a request for networks but are not read there."""
    for key in object_at(metadata):
        if key not in _METADATA:
            yield Finding(place.at((key,)).line, error=True, text=_unknown(str(key), what))
    for kind, keys in (("annotation", _keys(metadata, "annotations")), ("label", _keys(metadata, "labels"))):
        for key in keys:
            intended = _intended(key)
            if not intended or (kind == "annotation" and key == intended):
                continue
            expected = f"expected {intended}" if kind == "annotation" else f"expected the annotation {intended}"
            line = place.at((f"{kind}s", key)).line
            yield Finding(line, error=True, text=f"{what}: {kind} {key} is not read: {expected}")


def workload_annotations(
    kind: str, metadata: Any, template: Any, steps: tuple[str, ...], place: Place
) -> Iterator[Finding]:
    """Find networks annotations on a workload itself: its pods get only the annotations of its template."""
    template_keys = _keys(template, "annotations")
    for key in _keys(metadata, "annotations"):
        if key in (NETWORKS, DEFAULT_NETWORK):
            where = ".".join((*steps, "metadata", "annotations"))
            text = f"annotation {key} of the {kind} itself is not read: its pods have those of {where}"
            yield Finding(place.at(("annotations", key)).line, error=key not in template_keys, text=text)


def _unknown(key: str, what: str) -> str:
    if intended := _intended(key):
        return f"{what}.{key} is not read: expected {intended} under {what}.annotations"
    return unknown_key(key, _METADATA, within=parse_path(what)).msg


def _intended(key: str) -> str:
    """Return the annotation that the key is, or is probably meant to be; "" for any other key."""
    if key in _OTHERS:
        return ""
    near = difflib.get_close_matches(key.lower(), _READ, 1, _MIN_SIMILARITY)
    return _READ[near[0]] if near else ""


def _keys(metadata: Any, part: str) -> list[str]:
    return [str(key) for key in object_at(metadata, part)]
