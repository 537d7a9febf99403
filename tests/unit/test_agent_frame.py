"""Frames of calls: complete, in pieces, and malformed."""

from __future__ import annotations

import io
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.agent.frame import MAX_CALL, Call, parse_call, read_answer, write_answer, write_call
from wirespeed.errors import Error, Kind

text = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
variables = st.dictionaries(text.filter(lambda name: "=" not in name).map("CNI_".__add__), text)
calls = st.builds(Call, text, variables, st.binary())


def framed(payload: bytes) -> bytes:
    return b"WSP1" + struct.pack(">I", len(payload)) + payload


def written(call: Call) -> bytes:
    """The frame as the shim writes it."""
    entries = [call.name, *(f"{key}={value}" for key, value in call.environ.items())]
    return framed(b"".join(os.fsencode(entry) + b"\0" for entry in entries) + b"\0" + call.stdin)


@given(calls)
def test_call_is_taken_as_it_was_sent(call: Call) -> None:
    assert parse_call(written(call)) == call


@given(calls)
def test_call_is_written_as_the_shim_writes_it(call: Call) -> None:
    assert write_call(call) == written(call)


@given(calls, st.data())
def test_part_of_a_call_is_none_yet(call: Call, data: st.DataObject) -> None:
    whole = written(call)
    length = data.draw(st.integers(0, len(whole) - 1))
    assert parse_call(whole[:length]) is None


@given(st.binary() | st.binary().map(framed) | st.binary().map(b"WSP1".__add__))
def test_anything_else_is_refused_in_one_line(received: bytes) -> None:
    try:
        parse_call(received)
    except Error as error:
        assert error.kind == Kind.INVALID_DATA
        assert error.msg.startswith("call frame: ")
        assert error.msg.isprintable()


def test_length_is_bounded_before_the_call_has_come() -> None:
    assert parse_call(b"WSP1" + struct.pack(">I", MAX_CALL)) is None
    with pytest.raises(Error, match=f"expected at most {MAX_CALL} bytes, got {MAX_CALL + 1}"):
        parse_call(b"WSP1" + struct.pack(">I", MAX_CALL + 1))


def test_answer_is_status_length_and_output() -> None:
    assert write_answer(1, b"ab") == b"\0\0\0\1\0\0\0\2ab"


@given(st.integers(0, 255), st.binary(), st.data())
def test_answer_is_read_whole_or_not_at_all(status: int, stdout: bytes, data: st.DataObject) -> None:
    whole = write_answer(status, stdout)
    assert read_answer(io.BytesIO(whole)) == (status, stdout)
    with pytest.raises(EOFError):
        read_answer(io.BytesIO(whole[: data.draw(st.integers(0, len(whole) - 1))]))
