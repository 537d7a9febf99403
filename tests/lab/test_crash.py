"""The agent is killed at every instant of an ADD: the DEL that follows ends as a clean one does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import LabVfs, Runtime, conf, host_local, state_of_everything

MAC = "02:00:00:00:00:bb"


@contextmanager
def forked_agent(runtime: Runtime, *, die_at: int | None = None, count: Path | None = None) -> Iterator[None]:
    """An agent in a child process that kills itself at instant number `die_at`.

    An instant is before or after each journal transaction and each netlink change. `count` receives how many
    there were.
    """
    child = os.fork()
    if not child:
        try:
            _become_agent(runtime, die_at, count)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def _become_agent(runtime: Runtime, die_at: int | None, count: Path | None) -> None:
    from agent import main
    from wirespeed.host.rtnl import Rtnl
    from wirespeed.state.journal import Journal

    passed = 0

    def instant() -> None:
        nonlocal passed
        passed += 1
        if count is not None:
            count.write_text(str(passed))
        if passed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    write, change = Journal._write, Rtnl._do

    @contextmanager
    def counted_write(self: Journal) -> Iterator[Any]:
        instant()
        with write(self) as db:
            yield db
        instant()

    def counted_change(self: Rtnl, kind: int, flags: int, body: bytes) -> None:
        instant()
        change(self, kind, flags, body)
        instant()

    Journal._write = counted_write  # type: ignore[assignment]
    Rtnl._do = counted_change  # type: ignore[method-assign]
    sys.stdout.flush()
    os._exit(main(runtime.config, "warning"))


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_killed_at_every_instant_of_an_add_then_del(
    runtime: Runtime, vfs: LabVfs, namespaces: Callable[[], str], kind: str, tmp_path: Path
) -> None:
    device = getattr(vfs, kind)[0]
    asked = conf(device, mac=MAC, vlan=77, spoofchk="off", trust="on", ipam=host_local(7))
    if kind == "kernel":
        asked["mtu"] = 1400
    leases = runtime.folder / "leases" / "data"
    before = state_of_everything()
    instants = _count_instants(runtime, asked, namespaces(), tmp_path / "count")
    assert instants >= (12 if kind == "kernel" else 6)
    assert state_of_everything() == before
    for number in range(1, instants + 1):
        netns = namespaces()
        with forked_agent(runtime, die_at=number):
            died = runtime.add("crash", asked, netns)
        assert (died.code, died.body["code"]) == (1, 11), f"instant {number}"
        with forked_agent(runtime):
            assert runtime.delete("crash", asked, netns).code == 0, f"instant {number}"
        assert state_of_everything() == before, f"instant {number}"
        assert not list(leases.glob("10.8.7.*")), f"instant {number}"


def _count_instants(runtime: Runtime, asked: dict[str, Any], netns: str, count: Path) -> int:
    with forked_agent(runtime, count=count):
        assert runtime.add("crash", asked, netns).code == 0
        instants = int(count.read_text())
        assert runtime.delete("crash", asked, netns).code == 0
    return instants
