"""CNI errors: the codes of the specification, and our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class Code(IntEnum):
    """Error codes: below 100 as the CNI specification 1.1 ("Error") assigns them, from 100 ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    UNAVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    INTERNAL = 100
    DEVICE = 101  # the device is not there, or its driver refuses
    INTERFACE = 102  # the interface name is taken, or the interface is not there
    ADDRESS = 103  # no address left, or the address is taken
    DRIFT = 104  # CHECK found something else than ADD set up
    PLUGIN = 105  # an executed plugin failed without a CNI error of its own
    POLICY = 106  # namespace isolation, capabilities


class CniError(Exception):
    """A refusal or failure, as reported to the runtime: `code`, one line `msg`, and optional `details`."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        if not msg.isprintable():  # keep it to one line, whatever characters a name contains
            msg = "".join(c if c.isprintable() else repr(c)[1:-1] for c in msg)
        super().__init__(msg)
        self.code = int(code)
        self.msg = msg
        self.details = details

    def prefixed(self, where: str) -> CniError:
        """Return the same error with the message prefixed by where it happened."""
        return CniError(self.code, f"{where}: {self.msg}", self.details)

    def to_json(self, version: str) -> bytes:
        """Return the specification's error object, as a plugin prints it on standard output."""
        body: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.msg}
        if self.details:
            body["details"] = self.details
        return json.dumps(body, separators=(",", ":")).encode()


class NotUndoneError(CniError):
    """An ADD that failed and could not be undone either; a DEL has to complete the undo."""


def combined(errors: Sequence[CniError]) -> CniError:
    """Return the first error, with the messages of the others appended."""
    first, rest = errors[0], "; ".join(error.msg for error in errors[1:])
    return CniError(first.code, f"{first.msg}; also {rest}" if rest else first.msg, first.details)
