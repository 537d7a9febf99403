"""Plugins of a killed agent are ended while the new agent is busy, with the processes that they started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import openfiles
from wirespeed.cni.execute import STDIN_NAME
from wirespeed.cni.orphans import kill_orphans
from wirespeed.errors import Error, Kind

# The plugin prints its PID itself: when Popen returns, /proc/PID/environ may still be empty for some milliseconds.
_PLUGIN = """
import os, signal
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
signal.pause()
"""
_EXECUTE = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {_PLUGIN!r}], start_new_session=True)
"""


class Orphan(NamedTuple):
    """A plugin that another process executed, and the process that the plugin started: PIDs and pidfds."""

    pid: int
    ended: int
    child: int
    child_ended: int


@pytest.fixture
def orphan() -> Iterator[Orphan]:
    """A plugin that another process executed for an attachment, such as one that runs an IPAM plugin.

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
        pid, child = map(int, executor.stdout.readline().split())
        made = Orphan(pid, os.pidfd_open(pid), child, os.pidfd_open(child))
        yield made
        for ended in (made.ended, made.child_ended):
            if not has_ended(ended):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            os.close(ended)


def has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def test_a_process_with_more_files_than_select_knows_ends_them(orphan: Orphan) -> None:
    with openfiles.many():
        kill_orphans("another", "/run/netns/orphaned", deadline=time.monotonic() + 30)
        assert not has_ended(orphan.ended)
        kill_orphans("orphaned", "/run/netns/orphaned", deadline=time.monotonic() + 30)
    assert has_ended(orphan.ended)
    assert has_ended(orphan.child_ended)


def test_what_a_plugin_started_has_ended_too_even_if_it_takes_longer(
    orphan: Orphan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process that is in a system call ends after it; here, the child is killed later."""
    late = threading.Timer(0.3, os.kill, (orphan.child, signal.SIGKILL))

    def kill_the_leader_first(group: int, number: int) -> None:
        os.kill(group, number)
        late.start()

    monkeypatch.setattr(os, "killpg", kill_the_leader_first)
    kill_orphans("orphaned", "/run/netns/orphaned", deadline=time.monotonic() + 30)
    assert has_ended(orphan.child_ended)


def test_one_that_does_not_end_is_an_error_that_asks_for_another_attempt(
    orphan: Orphan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "killpg", os.kill)
    with pytest.raises(Error, match=f"process {orphan.child}, a plugin of a killed agent, does not end") as failed:
        kill_orphans("orphaned", "/run/netns/orphaned", deadline=time.monotonic() + 0.3)
    assert failed.value.kind == Kind.TRY_AGAIN
