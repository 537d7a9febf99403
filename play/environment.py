"""What a container's command is told: its variables, and the references to them, as the kubelet fills them in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from play.manifests import Container, EnvVar, Pod

# What a container has where its image says nothing, from the runtime.
BASE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

_REFERENCE = re.compile(r"\$(?:\(([^)]*)\)|(.))", re.DOTALL)
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.podIP",
    "status.podIPs",
)

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a pod once it has its network: its `annotations` with network-status, its addresses."""

    uid: str
    hostname: str
    node: str
    ips: Sequence[str] = ()
    annotations: Mapping[str, str]


def field_refusal(path: str) -> str:
    """What is wrong with a fieldPath; "" if it is filled in here."""
    if path in _FIELDS or _KEYED.fullmatch(path):
        return ""
    known = ", ".join((*_FIELDS, "metadata.labels['KEY']", "metadata.annotations['KEY']"))
    return f"expected one of {known}, got {path!r}"


def variables(
    pod: Pod, container: Container, *, facts: Facts, config_maps: ConfigMaps, given: Mapping[str, str]
) -> dict[str, str]:
    """A container's variables; `given` are those of its devices, which its own override."""
    own: dict[str, str] = {}
    for variable in container.env:
        value = _value(pod, variable, facts, config_maps, own)
        if value is not None:
            own[variable.name] = value
    return {**BASE, "HOSTNAME": facts.hostname, **given, **own}


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, if there is one, and `$$` a `$`."""

    def replaced(match: re.Match[str]) -> str:
        name, other = match.groups()
        if name is None:
            return "$" if other == "$" else match[0]
        return known.get(name, match[0])

    return _REFERENCE.sub(replaced, text)


def command(container: Container, known: Mapping[str, str]) -> list[str]:
    """Program and arguments, with all of the container's variables filled in."""
    return [expand(part, known) for part in (*container.command, *container.args)]


def _value(
    pod: Pod, variable: EnvVar, facts: Facts, config_maps: ConfigMaps, known: Mapping[str, str]
) -> str | None:
    """None where an optional key is not there. References are to variables that stand before it."""
    source = variable.value_from
    if source is None:
        return expand(variable.value or "", known)
    if source.field_ref:
        return _field(pod, source.field_ref.field_path, facts)
    assert source.config_map_key_ref is not None  # one of the two, see play.manifests
    key = source.config_map_key_ref
    return config_maps.get((pod.namespace, key.name), {}).get(key.key)


def _field(pod: Pod, path: str, facts: Facts) -> str:
    if keyed := _KEYED.fullmatch(path):
        kind, key = keyed.groups()
        return (facts.annotations if kind == "annotations" else pod.metadata.labels or {}).get(key, "")
    return {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": facts.uid,
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": "default",
        "status.podIP": facts.ips[0] if facts.ips else "",
        "status.podIPs": ",".join(facts.ips),
    }[path]
