"""A container's environment variables and the references to them, resolved as the kubelet does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wirespeed.play import downward

if TYPE_CHECKING:
    from wirespeed.play.manifests import Container, EnvVar, Pod

# Set by the runtime if the image sets nothing.
BASE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# A program in the images of applications (`wirespeed eal`, `wirespeed ready`), so every container here has it.
PROGRAM = "/usr/local/bin/wirespeed"

_REFERENCE = re.compile(r"\$(?:\(([^)]*)\)|(.))", re.DOTALL)

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a pod once it has its network; `annotations` include network-status."""

    uid: str
    hostname: str
    node: str
    home: str = "/root"  # of the container's user
    ips: Sequence[str] = ()
    annotations: Mapping[str, str]


def variables(
    pod: Pod, container: Container, *, facts: Facts, config_maps: ConfigMaps, given: Mapping[str, str]
) -> dict[str, str]:
    """Return a container's variables. `given` are those of its devices; the container's own override them."""
    own: dict[str, str] = {}
    for variable in container.env:
        value = _value(pod, container, variable, facts=facts, config_maps=config_maps, known=own)
        if value is not None:
            own[variable.name] = value
    return {**BASE, "HOME": facts.home, "HOSTNAME": facts.hostname, **given, **own}


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` with the variable's value, if it exists, and `$$` with `$`."""

    def replaced(match: re.Match[str]) -> str:
        name, other = match.groups()
        if name is None:
            return "$" if other == "$" else match[0]
        return known.get(name, match[0])

    return _REFERENCE.sub(replaced, text)


def command(container: Container, known: Mapping[str, str]) -> list[str]:
    """Return the program and its arguments, with references to variables replaced."""
    return [expand(part, known) for part in (*container.command, *container.args)]


def _value(
    pod: Pod,
    container: Container,
    variable: EnvVar,
    *,
    facts: Facts,
    config_maps: ConfigMaps,
    known: Mapping[str, str],
) -> str | None:
    """Return a variable's value; None if an optional key is missing. References are to earlier variables only."""
    source = variable.value_from
    if source is None:
        return expand(variable.value or "", known)
    if source.field_ref:
        return downward.field(pod, source.field_ref.field_path, facts)
    if source.resource_field_ref:
        containers = [*pod.spec.init_containers, *pod.spec.containers]
        return downward.resource(source.resource_field_ref, containers, container.name)
    assert source.config_map_key_ref is not None  # one of the three, see play.manifests
    key = source.config_map_key_ref
    return config_maps.get((pod.namespace, key.name), {}).get(key.key)
