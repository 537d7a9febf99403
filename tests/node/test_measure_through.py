"""`wirespeed measure` through a forwarder: testpmd on kernel interfaces and null ports, without hugepages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from tests.node.conftest import PATIENCE, ROOT, Netns
from wirespeed.errors import Error, Kind, Thing
from wirespeed.measure import testpmd
from wirespeed.measure.report import Report
from wirespeed.measure.testpmd import Testpmd

POD = Thing("pod", "default/fw")
NULL = ("--vdev=net_null0", "--vdev=net_null1")
SHORT = ("--test", "loss", "--size", "128", "--trial", "0.5", "--pause", "0", "--max-rate", "400")
MACS = {"sender": "02:00:00:00:00:01", "receiver": "02:00:00:00:00:02"}


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not shutil.which("dpdk-testpmd"):
        message = "needs dpdk-testpmd: apt-get install dpdk-dev"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def running(folder: Path, *devices: str, within: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """testpmd as in a pod that measure makes, but with these devices, and memory that is not of hugepages."""
    testpmd.make_folder(folder)
    eal = ("--no-huge", "--no-pci", "--no-telemetry", "-m", "64", "-l", "0,1", f"--file-prefix=ws{os.getpid()}")
    script = testpmd.SCRIPT.replace(testpmd.MOUNTED, str(folder))
    script = script.replace("$(wirespeed eal --cores 2)", f'"{" ".join((*eal, *devices))}"')
    with subprocess.Popen([*within, "/bin/sh", "-c", script]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def nulls(tmp_path: Path) -> Iterator[tuple[Testpmd, subprocess.Popen[bytes]]]:
    """testpmd with two ports that receive without end."""
    with running(tmp_path / "fifos", *NULL) as process, testpmd.connected(tmp_path / "fifos", POD) as program:
        yield program, process


def test_testpmd_tells_its_ports_forwards_and_counts(nulls: tuple[Testpmd, subprocess.Popen[bytes]]) -> None:
    program, process = nulls
    ports = program.ports()
    assert [(port.number, port.device, port.driver, port.is_up) for port in ports] == [
        (0, "net_null0", "net_null", True),
        (1, "net_null1", "net_null", True),
    ]
    assert testpmd.find(ports, device="net_null1", mac="") == ports[1]
    assert testpmd.find(ports, device="virtio_user0", mac=ports[0].mac.upper()) == ports[0]
    program.forward(0, 1, **MACS)
    first, second = program.counts(0, 1), program.counts(0, 1)
    between = second.since(first)
    assert 0 < between.sent <= second.sent
    assert between.received > 0
    assert second.missed == 0
    program.quit()
    assert process.wait(PATIENCE) == 0


def test_the_last_lines_of_a_testpmd_that_was_killed_are_in_the_error(
    nulls: tuple[Testpmd, subprocess.Popen[bytes]],
) -> None:
    program, process = nulls
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    with pytest.raises(Error) as caught:
        program.counts(0, 1)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.msg.startswith("pod default/fw: testpmd has ended; its last lines: ")
    assert "Port 1: " in caught.value.msg


def test_a_testpmd_that_does_not_start_says_why(tmp_path: Path) -> None:
    with running(tmp_path / "fifos", "--vdev=net_absent0"), pytest.raises(Error) as caught:  # noqa: SIM117
        with testpmd.connected(tmp_path / "fifos", POD):
            pass
    assert "testpmd has ended; its last lines: " in caught.value.msg
    assert "net_absent0" in caught.value.msg


class Chain(NamedTuple):
    """Three namespaces: net1 of `left` is connected with `entry` of `middle`, and net1 of `right` with `exit`."""

    left: Netns
    middle: Netns
    right: Netns

    def mac(self, where: Netns, interface: str) -> str:
        found: str = where.links()[interface]["address"]
        return found

    def measure(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Measure through the interfaces of `middle`."""
        ends = ("--from", f"{self.left.name}:net1", "--to", f"{self.right.name}:net1")
        ports = [f"--through={self.mac(self.middle, each)}" for each in ("entry", "exit")]
        command = [sys.executable, "-m", "wirespeed", "measure", *ends, *ports, *SHORT, *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def chain(netns: Callable[[], Netns]) -> Chain:
    left, middle, right = netns(), netns(), netns()
    for end, port in ((left, "entry"), (right, "exit")):
        end.run("ip", "link", "add", "net1", "type", "veth", "peer", port, "netns", middle.path)
        for where, name in ((end, "net1"), (middle, port)):  # without an address, no frames but ours
            where.run("ip", "link", "set", name, "addrgenmode", "none", "up")
    return Chain(left, middle, right)


@pytest.fixture
def forwarding(chain: Chain, tmp_path: Path) -> Iterator[Testpmd]:
    """testpmd between the interfaces in the middle, which does not forward yet."""
    devices = [f"--vdev=net_af_packet{number},iface={name}" for number, name in enumerate(("entry", "exit"))]
    within = ("ip", "netns", "exec", chain.middle.name)
    with (
        running(tmp_path / "fifos", *devices, within=within),
        testpmd.connected(tmp_path / "fifos", POD) as program,
    ):
        yield program


def test_frames_go_through_a_running_forwarder_that_is_named_by_its_macs(chain: Chain, forwarding: Testpmd) -> None:
    sender, receiver = chain.mac(chain.left, "net1"), chain.mac(chain.right, "net1")
    forwarding.forward(0, 1, sender=sender, receiver=receiver)
    before = forwarding.counts(0, 1)
    done = chain.measure("--json")
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout, type=Report)
    (size,) = report.sizes
    assert [trial.lost for trial in size.loss] == [0, 0]
    assert forwarding.counts(0, 1).since(before).sent >= sum(trial.sent for trial in size.loss)
    assert report.forwarder
    macs = [chain.mac(chain.middle, each) for each in ("entry", "exit")]
    assert [report.forwarder.entry.mac, report.forwarder.exit.mac] == macs


@pytest.mark.usefixtures("forwarding")
def test_if_no_frame_arrives_it_is_said_what_the_forwarder_must_do(chain: Chain) -> None:
    done = chain.measure()
    assert done.returncode == 1
    entry, receiver = chain.mac(chain.middle, "entry"), chain.mac(chain.right, "net1")
    assert done.stderr == (
        f"Error: interface net1 ({chain.right.path}): none of 100 frames arrived; the frames are for {entry}, and "
        f"the forwarder must send them on to {receiver} (testpmd: --forward-mode=mac --eth-peer=PORT,{receiver}), "
        "as frames of layer 2\n"
    )
