"""What the API server refuses of a pod that is created, as far as our programs could get it wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEYS = {  # those that our programs write; others would be ignored by the real one, or are not checked here
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "namespace", "labels", "annotations"},
    "spec": {
        "affinity",
        "automountServiceAccountToken",
        "containers",
        "enableServiceLinks",
        "restartPolicy",
        "securityContext",
        "terminationGracePeriodSeconds",
        "tolerations",
    },
    "spec.containers": {"command", "image", "imagePullPolicy", "name", "resources", "securityContext"},
}


def problems(pod: Object) -> Iterator[str]:
    """Yield what is wrong with a pod that is to be created."""
    spec, metadata = pod.get("spec") or {}, pod["metadata"]
    containers = spec.get("containers") or ()
    for place, value in (("", pod), ("metadata", metadata), ("spec", spec)):
        yield from _unknown(place, value)
    if (pod.get("apiVersion"), pod.get("kind")) != ("v1", "Pod"):
        yield f"the object provided is unrecognized: {pod.get('apiVersion')} {pod.get('kind')}"
    if not _NAME.fullmatch(metadata["name"]) or len(metadata["name"]) > 253:
        yield f'metadata.name: Invalid value: "{metadata["name"]}": a lowercase RFC 1123 subdomain'
    for value in (metadata.get("labels") or {}).values():
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            yield f'metadata.labels: Invalid value: "{value}"'
    if not all(isinstance(value, str) for value in (metadata.get("annotations") or {}).values()):
        yield "metadata.annotations: cannot unmarshal into Go struct field of type string"
    if not containers:
        yield "spec.containers: Required value"
    for container in containers:
        yield from _unknown("spec.containers", container)
        yield from _of_container(container)
    yield from _of_affinity(spec)


def _unknown(place: str, value: Object) -> Iterator[str]:
    for key in value.keys() - _KEYS[place]:
        yield f'unknown field "{place}.{key}"'


def _of_container(container: Object) -> Iterator[str]:
    if not container.get("image"):
        yield "spec.containers[0].image: Required value"
    if container.get("imagePullPolicy") not in {"Always", "IfNotPresent", "Never"}:
        yield "spec.containers[0].imagePullPolicy: Unsupported value"
    if not all(isinstance(word, str) for word in container.get("command") or ()):
        yield "spec.containers[0].command: cannot unmarshal into Go struct field of type string"
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in {**requests, **limits}.items():
        if "/" in name and not str(value).isdecimal():
            yield f"spec.containers[0].resources.limits[{name}]: Invalid value: {value!r}: must be an integer"
    for name in requests:
        if "/" in name and limits.get(name) != requests[name]:
            yield f"spec.containers[0].resources.requests: must be equal to {name} limit"


def _of_affinity(spec: Object) -> Iterator[str]:
    wanted = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in wanted.get("nodeSelectorTerms") or ():
        for rule in term.get("matchFields") or ():
            if rule.get("key") != "metadata.name":
                yield f'matchFields[0].key: Invalid value: "{rule.get("key")}": not a valid field selector key'
            if rule.get("operator") not in {"In", "NotIn"} or len(rule.get("values") or ()) != 1:
                yield "matchFields[0].values: must have one element"
