"""The interface of a plugin: an object with the five verbs, run in the agent or alone as an executable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from wirespeed.cni.request import Request

# A CNI result in the format of specification 1.1.0, whatever version the caller uses; `wirespeed.cni.result`
# converts older formats to it and from it.
Result = dict[str, Any]


class Plugin(Protocol):
    """The verbs of the CNI specification. Each raises Error, after undoing what it began.

    Requests are validated before a plugin gets them (see `wirespeed.cni.request`). A plugin calls
    `request.check_deadline()` between its steps.
    """

    def add(self, request: Request) -> Result: ...

    def delete(self, request: Request) -> None: ...

    def check(self, request: Request) -> None: ...

    def gc(self, request: Request) -> None: ...

    def status(self, request: Request) -> None: ...


def call(plugin: Plugin, request: Request) -> None:
    """Call the verb of the request, any but ADD."""
    getattr(plugin, {"DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}[request.command])(request)


@runtime_checkable
class Capable(Protocol):
    """A plugin that reads parts of runtimeConfig even if its configuration does not declare the capability."""

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """Return the keys of runtimeConfig that it reads, given its configuration."""


@runtime_checkable
class DeletesInterface(Protocol):
    """A plugin whose DEL deletes the pod's interface before anything else.

    Its caller may delete that interface beforehand, together with those of other networks.
    """

    deletes_interface: Literal[True]
