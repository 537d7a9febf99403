"""What only the running agent knows, in the form in which its parts report it: pools, and calls in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from wirespeed import structs


class Fault(msgspec.Struct, frozen=True):
    """A device that the kubelet must not allocate, and why."""

    device: str
    reason: str


@structs.prepared
class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that are offered to the kubelet under one resource name."""

    resource: str
    devices: tuple[str, ...]
    unhealthy: tuple[Fault, ...] = ()


@structs.prepared
class RunningCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that has no answer yet. `seconds` is since its arrival, `step` what it does: "attach > claim".

    A call that waits for others has no step.
    """

    verb: str
    plugin: str
    container: str
    pod: str
    seconds: float
    step: str = ""


class Live:
    """The reports of the agent's parts; each part that runs sets its own. Without an agent, there are none."""

    def __init__(self) -> None:
        self.began: float | None = None  # when the agent began to serve, as time.monotonic()
        self.pools: Callable[[], Sequence[Pool]] = tuple
        self.calls: Callable[[], Sequence[RunningCall]] = tuple
