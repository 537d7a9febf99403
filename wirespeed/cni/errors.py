"""Errors as CNI has them: the codes of the specification and our own, and the error object."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

from wirespeed.errors import CombinedError, Error, Kind


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
    DEVICE = 101
    INTERFACE = 102
    ADDRESS = 103
    DRIFT = 104
    PLUGIN = 105
    POLICY = 106


# The codes whose names in the specification are not those of the kinds.
_RENAMED = {
    Kind.UNSUPPORTED: Code.UNSUPPORTED_FIELD,
    Kind.NOT_ATTACHED: Code.UNKNOWN_CONTAINER,
    Kind.INVALID_REQUEST: Code.INVALID_ENVIRONMENT,
    Kind.IO: Code.IO_FAILURE,
    Kind.INVALID_DATA: Code.DECODING_FAILURE,
    Kind.TRY_AGAIN: Code.TRY_AGAIN_LATER,
}
_CODES = {kind: _RENAMED.get(kind) or Code[kind.name] for kind in Kind}
_KINDS = {int(code): kind for kind, code in _CODES.items()} | {int(Code.LIMITED_CONNECTIVITY): Kind.UNAVAILABLE}


class PluginError(Error):
    """The error object that an executed plugin printed. Its code goes to the runtime as it is."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(_KINDS.get(code, Kind.PLUGIN), msg, details=details)
        self.code = code


class NotUndoneError(CombinedError):
    """An ADD that failed and could not be undone either; a DEL has to complete the undo."""

    def __init__(self, error: Error, failure: Error) -> None:
        super().__init__([error, failure], between="; undoing it failed: ")


def code_of(error: Error) -> int:
    """Return the CNI code: of the error's kind, of the plugin that printed it, or of the first of several."""
    if isinstance(error, CombinedError) and error.errors[0].kind is error.kind:
        return code_of(error.errors[0])
    if isinstance(error, PluginError) and _KINDS.get(error.code, Kind.PLUGIN) is error.kind:
        return error.code
    return _CODES[error.kind]


def to_json(error: Error, version: str) -> bytes:
    """Return the specification's error object, as a plugin prints it on standard output."""
    body: dict[str, Any] = {"cniVersion": version, "code": int(code_of(error)), "msg": error.msg}
    if error.details:
        body["details"] = error.details
    return json.dumps(body, separators=(",", ":")).encode()
