"""The frames between the shim and the agent: one call and its answer per connection of a unix stream socket.

Call: "WSP1", u32 length of the rest, then the name that the shim was called by, NUL, each CNI_* variable as
KEY=VALUE, NUL, one more NUL, and standard input. Answer: u32 exit status, u32 length, standard output.
Integers are big-endian. `shim/wirespeed-cni.c` is the other end.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from wirespeed.cni.errors import CniError, Code

MAX_CALL = 8 << 20  # bytes; the shim sends at most 4 MiB of standard input

# The exit status by which an agent that ends hands a call that it has not begun to the agent after it.
AGAIN = 0xFFFFFFFF

_MAGIC = b"WSP1"
_HEAD = struct.Struct(">4sI")
_ANSWER = struct.Struct(">II")


@dataclass(frozen=True)
class Call:
    """A call of the plugin `name`, with the CNI_* variables and the standard input of its process."""

    name: str
    environ: dict[str, str]
    stdin: bytes


def take_call(received: bytes | bytearray) -> Call | None:
    """The call that was received, None while a part of it is missing.

    Raises CniError(DECODING_FAILURE) as soon as it can be no call.
    """
    if not _MAGIC.startswith(received[: len(_MAGIC)]):
        raise _bad(f"expected the mark {_MAGIC.decode()}, got {bytes(received[: len(_MAGIC)])!r}")
    if len(received) < _HEAD.size:
        return None
    _, length = _HEAD.unpack_from(received)
    if length > MAX_CALL:
        raise _bad(f"expected at most {MAX_CALL} bytes, got {length}")
    whole = _HEAD.size + length
    if len(received) > whole:
        raise _bad(f"expected {whole} bytes, got more")
    return _parse(bytes(received[_HEAD.size :])) if len(received) == whole else None


def _parse(payload: bytes) -> Call:
    # Neither a variable nor the name of a file is empty, so the first two NUL are the end of the variables.
    head, end, stdin = payload.partition(b"\0\0")
    if not end:
        raise _bad("the end of the variables is missing")
    name, *entries = map(os.fsdecode, head.split(b"\0"))
    environ = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.startswith("CNI_"):
            raise _bad(f"expected a variable CNI_*=VALUE, got {entry!r}")
        environ[key] = value
    return Call(name, environ, stdin)


def _bad(what: str) -> CniError:
    return CniError(Code.DECODING_FAILURE, f"call frame: {what}")


def write_call(call: Call) -> bytes:
    """The frame of a call, as the shim writes it."""
    variables = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in call.environ.items())
    payload = os.fsencode(call.name) + b"\0" + variables + b"\0" + call.stdin
    return _HEAD.pack(_MAGIC, len(payload)) + payload


def read_answer(stream: BinaryIO) -> tuple[int, bytes]:
    """The exit status and the standard output that answer a call. Raises EOFError for an answer that breaks off."""
    head = stream.read(_ANSWER.size)
    if len(head) == _ANSWER.size:
        exit_code, length = _ANSWER.unpack(head)
        stdout = stream.read(length)
        if len(stdout) == length:
            return exit_code, stdout
    raise EOFError("the answer breaks off")


def write_answer(exit_code: int, stdout: bytes = b"") -> bytes:
    """The frame that answers a call."""
    return _ANSWER.pack(exit_code, len(stdout)) + stdout
