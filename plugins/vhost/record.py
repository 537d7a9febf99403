"""The record of an attached port in the journal."""

from __future__ import annotations

from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.plugins.vhost.sockets import Folder
from wirespeed.state import claims
from wirespeed.state.journal import DeviceClaim

PLUGIN = "vhost"


@structs.prepared
class VhostRecord(claims.Record, frozen=True, kw_only=True):
    """The record of a claim: the port `port` of an engine, and its socket.

    `files` are the attachment's files in `folder`, the socket first and the configuration data last. `made` is what
    the engine returned for the port. `kept` is userspace-CNI's file of a port that is taken over, "" for none.
    """

    engine: str
    port: str
    socket: str = ""
    bridge: str = ""
    role: str = ""
    folder: Folder | None = None
    files: tuple[str, ...] = ()
    device_info: str = msgspec.field(name="deviceInfo", default="")
    made: Any = None
    kept: str = ""


def record_of(claim: DeviceClaim) -> VhostRecord:
    """Return the record of a claim. Raises Error(INVALID_DATA)."""
    return claims.read(claim, VhostRecord)
