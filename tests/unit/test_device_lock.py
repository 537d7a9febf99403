"""A device's lock: exclusive within this process and between processes, and every wait ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wirespeed.errors import Error, Kind
from wirespeed.state.locks import device_lock

DEVICE = "0000:03:02.0"
FOREVER = float("inf")


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[int]:
    """A child process that holds the lock of DEVICE until it is killed. Yields its PID."""
    held, held_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            with device_lock(folder, DEVICE, deadline=FOREVER):
                os.write(held_end, b"x")
                threading.Event().wait()
        finally:
            os._exit(0)
    try:
        os.read(held, 1)
        yield child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_lock_held_by_another_process_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with (
        held_by_another_process(tmp_path),
        pytest.raises(Error, match=f"device {DEVICE}: another request still works on it") as refused,
        device_lock(tmp_path, DEVICE, deadline=time.monotonic() + 0.05),
    ):
        pytest.fail("two have the lock")
    assert refused.value.kind == Kind.TRY_AGAIN


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path) as child:
        waiting = threading.Timer(0.05, os.kill, (child, 9))
        waiting.start()
        with device_lock(tmp_path, DEVICE, deadline=time.monotonic() + 30):
            waiting.join()


def test_a_lock_held_by_another_thread_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    refused: list[Error] = []

    def ask() -> None:
        try:
            with device_lock(tmp_path, DEVICE, deadline=time.monotonic() + 0.05):
                pass
        except Error as error:
            refused.append(error)

    with device_lock(tmp_path, DEVICE, deadline=FOREVER):
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join()
    assert [error.kind for error in refused] == [Kind.TRY_AGAIN]
    with device_lock(tmp_path, DEVICE, deadline=time.monotonic()):
        pass


def test_other_devices_are_not_waited_for(tmp_path: Path) -> None:
    with (
        device_lock(tmp_path, DEVICE, deadline=FOREVER),
        device_lock(tmp_path, "0000:03:02.1", deadline=time.monotonic()),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Error, match=r"lock .*file/0000:03:02.0: Not a directory") as refused,
        device_lock(tmp_path / "file", DEVICE, deadline=FOREVER),
    ):
        pass
    assert refused.value.kind == Kind.IO
