"""The frames between the shim and the agent: one call and its answer per connection of a unix stream socket.

Call: "WSP1", u32 length of the rest, then the name by which the shim was called, NUL, each CNI_* variable as
KEY=VALUE, NUL, one more NUL, and standard input. Answer: u32 exit status, u32 length, standard output.
Integers are big-endian. `shim/wirespeed-cni.c` is the other end.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from wirespeed.errors import Error, Kind

MAX_CALL = 8 << 20  # bytes; the shim sends at most 4 MiB of standard input

# The exit status with which an ending agent answers a call that it has not started: the shim calls the next agent.
TRY_NEXT_AGENT = 0xFFFFFFFF

VIEW = "VIEW"  # CNI_COMMAND of a call that asks the agent for a view of its node

_MAGIC = b"WSP1"
_HEAD = struct.Struct(">4sI")
_ANSWER = struct.Struct(">II")


@dataclass(frozen=True)
class Call:
    """A call of the plugin `name`, with the CNI_* variables and the standard input of its process."""

    name: str
    environ: dict[str, str]
    stdin: bytes


def parse_call(received: bytes | bytearray) -> Call | None:
    """Parse a received call; None while it is incomplete. Raises Error(INVALID_DATA) once it cannot be a call."""
    if not _MAGIC.startswith(received[: len(_MAGIC)]):
        raise _invalid(expected=f"the mark {_MAGIC.decode()}", got=bytes(received[: len(_MAGIC)]))
    if len(received) < _HEAD.size:
        return None
    _, length = _HEAD.unpack_from(received)
    if length > MAX_CALL:
        raise _invalid(expected=f"at most {MAX_CALL} bytes", got=length)
    whole = _HEAD.size + length
    if len(received) > whole:
        raise _invalid("more data follows it", expected=f"{whole} bytes")
    return _parse(bytes(received[_HEAD.size :])) if len(received) == whole else None


def _parse(payload: bytes) -> Call:
    # Neither the name nor a variable is empty, so the first two NULs in a row end the variables.
    head, end, stdin = payload.partition(b"\0\0")
    if not end:
        raise _invalid("the end of the variables is missing")
    name, *entries = map(os.fsdecode, head.split(b"\0"))
    environ = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.startswith("CNI_"):
            raise _invalid(expected="a variable CNI_*=VALUE", got=entry)
        environ[key] = value
    return Call(name, environ, stdin)


def _invalid(what: str = "", **parts: Any) -> Error:
    return Error(Kind.INVALID_DATA, what, where="call frame", **parts)


def write_call(call: Call) -> bytes:
    """Return the frame of a call, as the shim writes it."""
    variables = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in call.environ.items())
    payload = os.fsencode(call.name) + b"\0" + variables + b"\0" + call.stdin
    return _HEAD.pack(_MAGIC, len(payload)) + payload


def read_answer(stream: BinaryIO) -> tuple[int, bytes]:
    """Read the exit status and standard output of an answer. Raises EOFError if the answer is incomplete."""
    head = stream.read(_ANSWER.size)
    if len(head) == _ANSWER.size:
        exit_code, length = _ANSWER.unpack(head)
        stdout = stream.read(length)
        if len(stdout) == length:
            return exit_code, stdout
    raise EOFError("the answer is incomplete")


def write_answer(exit_code: int, stdout: bytes = b"") -> bytes:
    """Return the frame of an answer."""
    return _ANSWER.pack(exit_code, len(stdout)) + stdout
