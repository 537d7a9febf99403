"""Memory and hugepage limits of containers and pods, calculated as the kubelet does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wirespeed.errors import Error, Kind
from wirespeed.play import quantity
from wirespeed.play.objects import Container, Pod

_HUGEPAGES = "hugepages-"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits in bytes. `memory` None is unlimited. A size missing in `hugepages` (keys like "2Mi") has limit 0."""

    memory: int | None = None
    hugepages: Mapping[str, int] = field(default_factory=dict)


def of(container: Container) -> Limits:
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
    """Return a pod's limits: the sum of its containers, or an init container's if larger.

    Memory is limited only if every container has a limit.
    """
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


def check(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> None:
    """Check a container's hugepages as the API server does. Raises Error(INVALID_CONFIG)."""
    asked = [name for name in [*limits, *requests] if name.startswith(_HUGEPAGES)]
    for name in asked:
        if name not in limits or (
            name in requests and quantity.parse(requests[name]) != quantity.parse(limits[name])
        ):
            expected = f"{name} in limits, and the same or nothing in requests"
            raise Error(Kind.INVALID_CONFIG, expected=expected)
    if asked and not any(name in each for name in ("cpu", "memory") for each in (limits, requests)):
        raise Error(Kind.INVALID_CONFIG, expected=f"cpu or memory beside {asked[0]}")
