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

# The plugin prints its PID itself: when Popen returns, /proc/PID/environ may still be empty for some milliseconds.
_PLUGIN = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
_EXECUTE = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {_PLUGIN!r}], start_new_session=True)
"""


@pytest.fixture
def orphan() -> Iterator[int]:
    """A pidfd of a plugin that another process executed for an attachment.

    That process stays its parent. If it ended while this process is PID 1 (in a container), this process would
    become the parent, and the plugin would count as its own.
    """
    stdin = os.memfd_create(STDIN_NAME)
    environ = {**os.environ, "CNI_CONTAINERID": "orphaned", "CNI_NETNS": "/run/netns/orphaned"}
    with subprocess.Popen(
        [sys.executable, "-c", _EXECUTE], stdin=stdin, stdout=subprocess.PIPE, env=environ
    ) as executor:
        os.close(stdin)
        assert executor.stdout
        ended = os.pidfd_open(int(executor.stdout.readline()))
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
