"""What virtual switches have in common: they may be down, their bridges have names, their ports VLANs."""

from __future__ import annotations

import re

from wirespeed.cni.errors import CniError, Code

BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
TRUNK = "a list of VLANs from 1 to 4094"

ANSWER_AT_MOST = 20.0  # seconds that a switch has for one call, where the request's deadline is later


class SwitchDownError(CniError):
    """The switch does not answer; what was to be taken from it can be taken later."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, what)


class UnreachedError(SwitchDownError):
    """The switch could not be reached: it knows nothing of what was to be asked."""


def is_trunk(value: object) -> bool:
    """Whether it is what a configuration may give as the VLANs that a port carries tagged (TRUNK)."""
    return isinstance(value, list) and all(
        isinstance(vlan, int) and not isinstance(vlan, bool) and 1 <= vlan <= 4094 for vlan in value
    )
