"""Health reporters of a kernel driver (netdevsim), from the kernel's notification to the kubelet's device list."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from tests.lab.conftest import Netdevsim, sh
from tests.node.calling import is_soon
from tests.node.deviceplugins import Place, Recorder
from wirespeed.devices.reporters import HealthReporters, health_reporters
from wirespeed.kernel.netlink.devlink import Reporter

PATIENCE = 10.0
SOON = 1.0  # seconds from a fault to the kubelet's device list, as documented
VF = "0000:19:00.0"


def set_recovery(device: Netdevsim, *, automatic: bool) -> None:
    setting = "true" if automatic else "false"
    sh("devlink", "health", "set", device.handle, "reporter", "dummy", "auto_recover", setting)


def damage(device: Netdevsim) -> None:
    (device.debug / "health/break_health").write_text("broken by a test")


def recover(device: Netdevsim) -> None:
    sh("devlink", "health", "recover", device.handle, "reporter", "dummy")


@pytest.fixture
def late() -> threading.Event:
    """Set when the kernel has answered a dump of all reporters."""
    return threading.Event()


@pytest.fixture
def reporters(netdevsim: Netdevsim, late: threading.Event) -> Iterator[HealthReporters]:
    set_recovery(netdevsim, automatic=False)
    found = health_reporters(late.set)
    assert found
    with closing(found):
        yield found


def wait(reporters: HealthReporters) -> bool:
    assert select.select([reporters], [], [], PATIENCE)[0]
    return reporters.drain()


def dummy(device: Netdevsim) -> Reporter:
    return Reporter(device.name, -1, "dummy")


def test_kernel_tells_of_a_reporter_in_error_and_of_its_recovery(
    netdevsim: Netdevsim, reporters: HealthReporters
) -> None:
    assert reporters.in_error == set()
    damage(netdevsim)
    assert wait(reporters)
    assert reporters.in_error == {dummy(netdevsim)}
    recover(netdevsim)
    assert wait(reporters)
    assert reporters.in_error == set()


def test_reporter_that_was_broken_before_is_found(netdevsim: Netdevsim) -> None:
    set_recovery(netdevsim, automatic=False)
    damage(netdevsim)
    found = health_reporters(lambda: None)
    assert found
    with closing(found):
        assert found.in_error == {dummy(netdevsim)}
        assert not found.drain()


def test_reporter_that_recovers_at_once_changes_nothing(netdevsim: Netdevsim, reporters: HealthReporters) -> None:
    set_recovery(netdevsim, automatic=True)
    damage(netdevsim)
    assert not wait(reporters)
    assert reporters.in_error == set()


def test_reporters_go_with_their_device(netdevsim: Netdevsim, reporters: HealthReporters) -> None:
    damage(netdevsim)
    assert wait(reporters)
    netdevsim.remove()
    assert wait(reporters)
    assert reporters.in_error == set()


def test_lost_notices_are_made_good_by_asking(
    netdevsim: Netdevsim, reporters: HealthReporters, late: threading.Event
) -> None:
    late.clear()
    with socket.socket(fileno=socket.dup(reporters.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel raises it to its minimum
    for _ in range(20):
        damage(netdevsim)
        recover(netdevsim)
    damage(netdevsim)
    reporters.drain()
    assert late.wait(PATIENCE)
    assert reporters.in_error == {dummy(netdevsim)}


@pytest.fixture
def place(tmp_path: Path, netdevsim: Netdevsim) -> Iterator[Place]:
    """A node whose sysfs has one VF; its PF has the name of netdevsim's device."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.device(netdevsim.name, driver="ice", name="ens1f0")
    sysfs.device(VF, driver="iavf", name="ens1f0v0")
    (sysfs.path(VF) / "physfn").symlink_to(sysfs.path(netdevsim.name))
    (sysfs.path(netdevsim.name) / "virtfn0").symlink_to(sysfs.path(VF))
    found = Place(tmp_path, sysfs, Recorder(tmp_path / "kubelet"))
    found.kubelet.start()
    yield found
    found.kubelet.stop()


def test_vf_is_unhealthy_within_a_second_while_its_pfs_reporter_is_in_error(
    netdevsim: Netdevsim, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def wait_health(expected: str) -> float:
        began = time.monotonic()
        place.kubelet.wait_until(
            lambda: [device.health for device in place.kubelet.resources().get("intel.com/a", ())] == [expected],
            PATIENCE,
            expected,
        )
        return time.monotonic() - began

    def recovers_and_breaks() -> float:
        recover(netdevsim)
        healthy = wait_health("Healthy")
        damage(netdevsim)
        return max(healthy, wait_health("Unhealthy"))

    set_recovery(netdevsim, automatic=False)
    damage(netdevsim)
    with place.running({"resourceName": "a"}) as plugin:
        wait_health("Unhealthy")  # from the first list on
        assert is_soon(recovers_and_breaks, SOON)
        figures = {family.name: [labels for labels, _ in family.samples] for family in plugin.metrics()}
        assert figures["wirespeed_device_unhealthy"] == [("intel.com/a", VF, "devlink")]
        assert figures["wirespeed_devlink_reporter_in_error"] == [(netdevsim.name, "", "dummy")]
        recover(netdevsim)
        wait_health("Healthy")
    assert f"unhealthy: {netdevsim.name}: health reporter dummy is in error" in caplog.text
    with place.running({"resourceName": "a", "health": ["link"]}):
        damage(netdevsim)
        wait_health("Healthy")
