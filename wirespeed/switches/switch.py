"""What the virtual switches have in common: errors when they are down, bridge names, VLANs of ports."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from wirespeed.errors import Error, Kind
from wirespeed.structs import Words, whole

BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
# Keys of configurations: the name of an Open vSwitch bridge ("" is none), and the tagged VLANs of a port.
BridgeName = Annotated[
    str,
    Meta(pattern=whole(f"{BRIDGE.pattern}|")),
    Words("the name of an Open vSwitch bridge like br-int", "name of an Open vSwitch bridge"),
]
Trunk = Annotated[
    list[Annotated[int, Meta(ge=1, le=4094)]],
    Words("a list of VLANs from 1 to 4094", "list of VLANs, 1 to 4094"),
]

ANSWER_TIMEOUT = 20.0  # seconds that a switch may take for one call; the request's deadline may be earlier


class SwitchDownError(Error):
    """The switch does not answer. A port that was to be removed can be removed later."""

    def __init__(self, what: str, *, where: str = "") -> None:
        super().__init__(Kind.TRY_AGAIN, what, where=where)


class UnreachableError(SwitchDownError):
    """The switch could not be reached, so it has not received the request."""
