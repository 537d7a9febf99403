"""A CNI request: the environment and standard input of a plugin call, validated."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wirespeed.cni.errors import CniError, Code


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of a plugin.

    `command` is ADD, DEL, CHECK, GC, STATUS or VERSION. `container_id`, `netns` (a path) and `ifname`
    are "" where the command does not carry them. `args` is CNI_ARGS in order, `path` the folders of
    CNI_PATH, `config` the JSON object of standard input as it came, `deadline` a time.monotonic() value
    after which the work is given up and undone.
    """

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    deadline: float = math.inf

    @property
    def version(self) -> str:
        """The cniVersion of the configuration; without one it is 0.1.0 (specification, "Version")."""
        return str(self.config.get("cniVersion") or "0.1.0")

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.config.get("name", ""))

    def check_deadline(self) -> None:
        """Raise TRY_AGAIN_LATER when the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise CniError(
                Code.TRY_AGAIN_LATER,
                f"{self.command} of container {self.container_id} {self.ifname}: took longer than its deadline",
            )

    def derive(self, **changes: Any) -> Request:
        """The same request with some fields changed."""
        return replace(self, **changes)
