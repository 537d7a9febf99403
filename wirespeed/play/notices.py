"""Messages about the manifests before the play begins: what in them has no effect here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wirespeed.errors import Error, Kind, Thing
from wirespeed.play import hidden, limits, security
from wirespeed.play.objects import Pod, containers


def check_capabilities(pods: Sequence[Pod]) -> None:
    """Raise Error(UNAVAILABLE) if a container adds capabilities that this process does not have itself."""
    for pod, container in containers(pods):
        if missing := security.missing_capabilities(container.security_context):
            what = f"this process does not have the capabilities {', '.join(missing)} itself"
            where = (*pod.places, Thing("container", container.name))
            raise Error(Kind.UNAVAILABLE, what, where=where)


def notes(pods: Sequence[Pod], missing: Mapping[str, str]) -> Iterator[str]:
    """Yield what has no effect (one line) and likely mistakes. `missing`: why a controller cannot be used."""
    if found := list(dict.fromkeys(_unenforced(pods, missing))):
        yield f"not enforced here: {', '.join(found)}"
    for pod, container in containers(pods):
        for problem in security.unknown_capabilities(container.security_context):
            yield f"{pod.label}/{container.name}: {problem}"
    yield from hidden.notes(pods)


def _unenforced(pods: Sequence[Pod], missing: Mapping[str, str]) -> Iterator[str]:
    all_containers = [each for _, each in containers(pods)]
    if any(each.image for each in all_containers):
        yield "image (containers see this machine's file system)"
    if any("cpu" in each.resources.limits for each in all_containers):
        yield "cpu limits"
    asked = [limits.of(each) for each in all_containers]
    if "memory" in missing and any(each.memory is not None for each in asked):
        yield f"memory limits ({missing['memory']})"
    if "hugetlb" in missing and any(each.hugepages for each in asked):
        yield f"hugepages limits ({missing['hugetlb']})"
    contexts = [each.security_context for each in all_containers]
    for context in (*(pod.spec.security_context for pod in pods), *contexts):
        yield from security.unenforced(context)
