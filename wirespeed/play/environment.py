"""A container's environment variables and the references to them, resolved as the kubelet does."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wirespeed.play import downward
from wirespeed.play.objects import ConfigMaps, Container, Facts, Pod, ValueFrom

# Set by the runtime if the image sets nothing.
BASE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# A program in the images of applications (`wirespeed eal`, `wirespeed ready`), so every container here has it.
PROGRAM = "/usr/local/bin/wirespeed"

_REFERENCE = re.compile(r"\$(?:\(([^)]*)\)|(.))", re.DOTALL)


def variables(
    pod: Pod, container: Container, facts: Facts, config_maps: ConfigMaps, given: Mapping[str, str]
) -> dict[str, str]:
    """Return a container's variables. `given` are those of its devices; the container's own override them.

    A value can refer to the container's earlier variables.
    """
    own: dict[str, str] = {}
    for variable in container.env:
        if variable.value_from is None:
            own[variable.name] = expand(variable.value or "", own)
        elif (value := _value_from(pod, container, variable.value_from, facts, config_maps)) is not None:
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


def _value_from(
    pod: Pod, container: Container, source: ValueFrom, facts: Facts, config_maps: ConfigMaps
) -> str | None:
    """Return a variable's value; None if an optional key is missing."""
    if source.field_ref:
        return downward.field(pod, source.field_ref.field_path, facts)
    if source.resource_field_ref:
        return downward.resource(source.resource_field_ref, pod.spec.all_containers, container.name)
    assert source.config_map_key_ref is not None  # one of the three, see play.manifests
    key = source.config_map_key_ref
    return config_maps.get((pod.namespace, key.name), {}).get(key.key)
