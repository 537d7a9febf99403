"""The agent is killed at every instant of an ADD or DEL. The DEL that follows must clean up completely."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import LabVfs, Runtime, conf, differences, sh, state_of_everything
from wirespeed.agent.daemon import main
from wirespeed.cni.errors import Code
from wirespeed.ipam.leases import Leases
from wirespeed.kernel import ethtool
from wirespeed.kernel.netlink.socket import NetlinkSocket
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov.sriov import Sriov
from wirespeed.state.journal import Journal
from wirespeed.switches.ovsdb import Ovsdb

MAC = "02:00:00:00:00:bb"

pytestmark = pytest.mark.usefixtures("ready_to_fork")
Namespaces = Callable[[], str]


@contextmanager
def forked_agent(runtime: Runtime, *, verb: str = "", die_at: int | None = None) -> Iterator[socket.socket]:
    """An agent in a child process that kills itself at instant `die_at` of the verb, "ADD" or "DEL".

    There is an instant before and after each change of the journal, the kernel, leases and device-info files, and
    each call of Open vSwitch. Each instant sends a message to the yielded socket.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        try:
            ours.close()
            _tell_instants(verb, die_at, theirs)
            os._exit(main(runtime.config, "warning"))
        finally:
            os._exit(1)
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def _tell_instants(verb: str, die_at: int | None, told: socket.socket) -> None:
    passed = 0
    # only this thread counts: announcements in the background change nothing that must be undone
    counted_thread = 0

    def instant() -> None:
        nonlocal passed
        if counted_thread == threading.get_ident():
            passed += 1
            told.send(b".")
            if passed == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        """Add an instant before and after each call of a function."""
        function = getattr(owner, name)

        def between(*args: Any, **kwargs: Any) -> Any:
            instant()
            result = function(*args, **kwargs)
            instant()
            return result

        setattr(owner, name, between)

    @contextmanager
    def counted_write(self: Journal) -> Iterator[Any]:
        instant()
        with write(self) as db:
            yield db
        instant()

    def counted(plugin_verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal counted_thread
            counted_thread = threading.get_ident()
            try:
                return plugin_verb(*args)
            finally:
                counted_thread = 0

        return call

    write = Journal._write
    Journal._write = counted_write  # type: ignore[method-assign]
    around(Journal, "_change")
    around(NetlinkSocket, "do")
    around(Ovsdb, "call")
    around(Leases, "reserve")
    around(Leases, "set_last")
    around(Leases, "release")
    around(deviceinfo, "write")
    around(ethtool, "set_queues")
    around(ethtool, "set_rss")
    around(Path, "unlink")
    around(Path, "write_text")
    name = {"ADD": "add", "DEL": "delete"}.get(verb)
    if name is not None:
        setattr(Sriov, name, counted(getattr(Sriov, name)))


def count_instants(told: socket.socket) -> int:
    told.setblocking(False)
    count = 0
    while True:
        try:
            told.recv(1)
        except BlockingIOError:
            return count
        count += 1


def wanted(runtime: Runtime, device: str, kind: str) -> dict[str, Any]:
    """A configuration that makes the plugin change everything that it can change for this kind of VF.

    Kind "rebound" is a kernel VF that the pod gets bound to vfio-pci.
    """
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.8.7.0/24"}], [{"subnet": "fd00:8:7::/64"}]]}
    info = {"CNIDeviceInfoFile": str(runtime.folder / "devinfo/cni/default-data-crash_net1")}
    asked = conf(device, mac=MAC, vlan=77, spoofchk="off", ipam=ipam, runtimeConfig=info)
    more: dict[str, dict[str, Any]] = {
        "kernel": {"mtu": 1400, "txQueueLen": 500},
        "rebound": {"driver": "vfio-pci"},
    }
    return asked | more.get(kind, {})


def device_of(vfs: LabVfs, kind: str) -> str:
    return (vfs.vfio if kind == "vfio" else vfs.kernel)[0]


def left_behind(runtime: Runtime) -> list[str]:
    """The leases and device-info files that exist."""
    found = [*(runtime.folder / "leases").rglob("*"), *(runtime.folder / "devinfo").rglob("*")]
    kept = (
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        "lock",
    )  # files of host-local itself, which stay as long as the network
    return [str(path) for path in found if path.is_file() and path.name not in kept]


def delete_ends_clean(
    runtime: Runtime, asked: dict[str, Any], netns: str, before: dict[str, Any], what: str
) -> None:
    with forked_agent(runtime):
        deleted = runtime.delete("crash", asked, netns)
    assert deleted.code == 0, f"{what}: {deleted.body}"
    assert differences(before, state_of_everything()) == [], what
    assert left_behind(runtime) == [], what


@pytest.mark.parametrize("kind", ["kernel", "vfio", "rebound"])
def test_killed_at_every_instant_of_an_add_then_del(
    runtime: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str
) -> None:
    asked = wanted(runtime, device_of(vfs, kind), kind)
    before = state_of_everything()
    netns = namespaces()
    number, added = 0, False
    while not added:  # an ADD that succeeds has fewer instants than this number
        number += 1
        with forked_agent(runtime, verb="ADD", die_at=number):
            answer = runtime.add("crash", asked, netns)
        added = answer.code == 0
        assert added or answer.body["code"] == Code.TRY_AGAIN_LATER, f"instant {number}: {answer.body}"
        delete_ends_clean(runtime, asked, netns, before, f"instant {number}")
    assert number > (22 if kind == "kernel" else 14)


@pytest.mark.parametrize("netns_first", [False, True], ids=["netns there", "netns gone"])
@pytest.mark.parametrize("kind", ["kernel", "vfio", "rebound"])
def test_killed_at_every_instant_of_a_del_then_del(
    runtime: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str, netns_first: bool
) -> None:
    asked = wanted(runtime, device_of(vfs, kind), kind)
    before = state_of_everything()
    number, instants = 0, 1
    while number < instants:
        number += 1
        netns = namespaces()
        with forked_agent(runtime, verb="DEL", die_at=number) as told:
            added = runtime.add("crash", asked, netns)
            assert added.code == 0, added.body
            if netns_first:
                sh("ip", "netns", "del", Path(netns).name)
            ended = runtime.delete("crash", asked, netns)
            # The number of instants is only known once a run is not killed; until then, plan one more run.
            instants = number + 1 if ended.code else count_instants(told)
        delete_ends_clean(runtime, asked, netns, before, f"instant {number}")
    assert instants >= (12 if kind == "kernel" else 6)
