"""How much memory containers and pods may use, by their resources, as the kubelet works it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wirespeed.play import quantity

if TYPE_CHECKING:
    from wirespeed.play.manifests import Container, Pod

_HUGEPAGES = "hugepages-"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """In bytes. `memory` is None for no limit; of a size of `hugepages` ("2Mi") that is not named it has none."""

    memory: int | None = None
    hugepages: Mapping[str, int] = field(default_factory=dict)


def of(container: Container) -> Limits:
    """A container's."""
    given = container.resources.limits
    return Limits(
        memory=int(quantity.parse(given["memory"])) if "memory" in given else None,
        hugepages={
            name.removeprefix(_HUGEPAGES): int(quantity.parse(amount))
            for name, amount in given.items()
            if name.startswith(_HUGEPAGES)
        },
    )


def of_pod(pod: Pod) -> Limits:
    """A pod's: its containers' together, or those of the init container that needs most; memory if all have it."""
    containers = [of(each) for each in pod.spec.containers]
    initial = [of(each) for each in pod.spec.init_containers]
    memory = [each.memory for each in [*containers, *initial]]
    bounds = [each.memory or 0 for each in containers]
    return Limits(
        memory=None if None in memory else max(sum(bounds), *(each.memory or 0 for each in initial), 0),
        hugepages={
            size: max([sum(_hugepages(containers, size)), *_hugepages(initial, size)])
            for size in {size for each in [*containers, *initial] for size in each.hugepages}
        },
    )


def _hugepages(limits: Iterable[Limits], size: str) -> list[int]:
    return [each.hugepages.get(size, 0) for each in limits]


def refusal(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> str:
    """What the API server says against a container's hugepages; "" for nothing."""
    asked = [name for name in [*limits, *requests] if name.startswith(_HUGEPAGES)]
    for name in asked:
        if name not in limits or (
            name in requests and quantity.parse(requests[name]) != quantity.parse(limits[name])
        ):
            return f"{name}: expected it in limits, and the same in requests or none there"
    if asked and not any(name in each for name in ("cpu", "memory") for each in (limits, requests)):
        return f"{asked[0]}: expected cpu or memory beside it"
    return ""
