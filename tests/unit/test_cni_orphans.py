"""Plugins of a killed agent are ended while the new agent is busy."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests import openfiles
from wirespeed.cni.execute import STDIN_NAME
from wirespeed.cni.orphans import end_orphans

_EXECUTE = """
from subprocess import DEVNULL, Popen
print(Popen(["sleep", "1000"], start_new_session=True, stdout=DEVNULL, stderr=DEVNULL).pid)
"""


@pytest.fixture
def orphan() -> Iterator[int]:
    """A pidfd of a plugin executed for an attachment, whose parent is gone."""
    stdin = os.memfd_create(STDIN_NAME)
    environ = {**os.environ, "CNI_CONTAINERID": "orphaned", "CNI_NETNS": "/run/netns/orphaned"}
    told = subprocess.run(
        [sys.executable, "-c", _EXECUTE], stdin=stdin, env=environ, check=True, capture_output=True
    )
    os.close(stdin)
    ended = os.pidfd_open(int(told.stdout))
    yield ended
    if not has_ended(ended):
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    os.close(ended)


def has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def test_a_process_with_more_files_than_select_knows_ends_them(orphan: int) -> None:
    with openfiles.many():
        end_orphans("another", "/run/netns/orphaned", deadline=time.monotonic() + 30)
        assert not has_ended(orphan)
        end_orphans("orphaned", "/run/netns/orphaned", deadline=time.monotonic() + 30)
    assert has_ended(orphan)
