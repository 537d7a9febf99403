"""Messages about the manifests before the play begins: what in them has no effect here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wirespeed.cni.errors import CniError, Code
from wirespeed.play import hidden, limits, security
from wirespeed.play.manifests import Container, Pod


def refuse_lacking(pods: Sequence[Pod]) -> None:
    """Raise CniError(UNAVAILABLE) if a container adds capabilities that this process does not have itself."""
    for pod, container in _containers(pods):
        if lacking := security.lacking(container.security_context):
            raise CniError(
                Code.UNAVAILABLE,
                f"{pod.where}: Pod {pod.label}: container {container.name}: capabilities {', '.join(lacking)}: "
                "this process has not got them itself",
            )


def lines(pods: Sequence[Pod], missing: Mapping[str, str]) -> Iterator[str]:
    """Yield what has no effect (one line) and likely mistakes. `missing` has the reason per unusable controller."""
    if found := list(dict.fromkeys(_unenforced(pods, missing))):
        yield f"not enforced here: {', '.join(found)}"
    for pod, container in _containers(pods):
        for problem in security.unknown_capabilities(container.security_context):
            yield f"{pod.label}/{container.name}: {problem}"
    yield from hidden.notes(pods)


def _containers(pods: Sequence[Pod]) -> Iterator[tuple[Pod, Container]]:
    return ((pod, each) for pod in pods for each in [*pod.spec.init_containers, *pod.spec.containers])


def _unenforced(pods: Sequence[Pod], missing: Mapping[str, str]) -> Iterator[str]:
    containers = [each for _, each in _containers(pods)]
    if any(each.image for each in containers):
        yield "image (containers see this machine's file system)"
    if any("cpu" in each.resources.limits for each in containers):
        yield "cpu limits"
    asked = [limits.of(each) for each in containers]
    if "memory" in missing and any(each.memory is not None for each in asked):
        yield f"memory limits ({missing['memory']})"
    if "hugetlb" in missing and any(each.hugepages for each in asked):
        yield f"hugepages limits ({missing['hugetlb']})"
    for context in (*(pod.spec.security_context for pod in pods), *(each.security_context for each in containers)):
        yield from security.unenforced(context)
