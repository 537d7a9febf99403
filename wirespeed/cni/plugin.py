"""What a plugin is: an object with the five verbs, run in the agent or alone as an executable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from wirespeed.cni.request import Request

# A CNI result in the shape of specification 1.1.0, whatever version the caller speaks;
# `wirespeed.cni.result` reads older shapes into it and writes them from it.
Result = dict[str, Any]


class Plugin(Protocol):
    """The verbs of the CNI specification. Each raises CniError, and on that has undone what it began.

    A request reaches a plugin validated (see `wirespeed.cni.request`). A plugin looks at
    `request.check_deadline()` between its steps.
    """

    def add(self, request: Request) -> Result: ...

    def delete(self, request: Request) -> None: ...

    def check(self, request: Request) -> None: ...

    def gc(self, request: Request) -> None: ...

    def status(self, request: Request) -> None: ...


@runtime_checkable
class Capable(Protocol):
    """A plugin that reads some of runtimeConfig whether or not its configuration declares the capability."""

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """What of runtimeConfig it reads, given its configuration."""
