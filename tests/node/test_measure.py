"""`wirespeed measure` between interfaces of the kernel: the figures of paths whose limits are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from tests.node.conftest import ROOT, Netns
from wirespeed.errors import Error, Kind
from wirespeed.kernel import ethtool
from wirespeed.kernel import netns as host_netns
from wirespeed.measure import path
from wirespeed.measure.path import Endpoint, MeasuredPath
from wirespeed.measure.report import Report, SizeReport
from wirespeed.measure.ring import Ring
from wirespeed.measure.search import Limit
from wirespeed.measure.sender import Sender
from wirespeed.measure.trial import Load, Outcome

SIZE = 512  # bytes
LIMIT = 8_000_000  # bit/s
KNEE = LIMIT / 8 / (SIZE - 4)  # frames/s: the kernel's queues count bytes without FCS
MACS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


@pytest.fixture
def ends(netns: Callable[[], Netns]) -> tuple[Netns, Netns]:
    """Two namespaces; net1 of each is connected with that of the other."""
    left, right = netns(), netns()
    left.run("ip", "link", "add", "net1", "type", "veth", "peer", "net1", "netns", right.path)
    for each in (left, right):  # without an address, no frames but ours
        each.run("ip", "link", "set", "net1", "addrgenmode", "none", "up")
    return left, right


@pytest.fixture
def bridged(netns: Callable[[], Netns]) -> tuple[Netns, Netns, Netns]:
    """Two namespaces whose net1 are connected by a bridge in a third, to whose ports `left` and `right`."""
    switch, left, right = netns(), netns(), netns()
    switch.run("ip", "link", "add", "br0", "type", "bridge")
    switch.run("ip", "link", "set", "br0", "up")
    for name, each in (("left", left), ("right", right)):
        each.run("ip", "link", "add", "net1", "type", "veth", "peer", name, "netns", switch.path)
        each.run("ip", "link", "set", "net1", "up")
        switch.run("ip", "link", "set", name, "master", "br0", "up")
    return left, right, switch


def limited(where: Netns, interface: str, *, queue: int) -> None:
    """Let an interface send LIMIT bit/s, with a queue of so many bytes."""
    limits = ("rate", f"{LIMIT}bit", "burst", "20000", "limit", str(queue))
    where.run("tc", "qdisc", "add", "dev", interface, "root", "tbf", *limits)


def measure(source: Netns, destination: Netns, *options: str) -> subprocess.CompletedProcess[str]:
    ends = ("--from", f"{source.name}:net1", "--to", f"{destination.path}:net1")
    return subprocess.run(
        [sys.executable, "-m", "wirespeed", "measure", *ends, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def size_report(source: Netns, destination: Netns, *options: str) -> SizeReport:
    """Measure frames of SIZE, with short trials, and at rates that need little of a CPU, but need it in time."""
    short = ("--real-time", "--trial", "1", "--pause", "0", "--size", str(SIZE), "--json")
    done = measure(source, destination, *short, *options)
    assert done.returncode == 0, done.stderr
    (size,) = msgspec.json.decode(done.stdout, type=Report).sizes
    return size


@pytest.fixture
def opened(ends: tuple[Netns, Netns]) -> Iterator[MeasuredPath]:
    left, right = ends
    with path.opened(Endpoint(left.path, "net1"), Endpoint(right.path, "net1")) as made:
        yield made


def test_frames_of_a_low_rate_all_arrive_in_order_with_their_latencies(opened: MeasuredPath) -> None:
    trial = opened.run(Load(size=SIZE, rate=1000, seconds=0.5), latency=True)
    assert (trial.sent, trial.received, trial.lost) == (500, 500, 0)
    assert (trial.duplicates, trial.reordered, trial.unread) == (0, 0, 0)
    assert trial.latency
    assert trial.latency.frames == 500
    assert 0 < trial.latency.minimum <= trial.latency.p50 <= trial.latency.p999 <= trial.latency.maximum < 1e6


def test_trials_on_one_path_are_apart(opened: MeasuredPath) -> None:
    counts = [opened.run(Load(size=64, rate=10_000, seconds=frames / 10_000)) for frames in (100, 1, 50)]
    assert [(each.sent, each.received) for each in counts] == [(100, 100), (1, 1), (50, 50)]


def test_the_throughput_of_a_path_with_a_limit_is_that_limit(bridged: tuple[Netns, Netns, Netns]) -> None:
    left, right, switch = bridged
    limited(switch, "right", queue=20_000)
    found = size_report(left, right, "--test", "throughput", "--max-rate", str(3 * KNEE))
    assert found.throughput
    assert found.throughput.limit is Limit.LOSS
    # What the limiter forwards and keeps in a second; a delayed sender catches up faster than at the rate.
    assert KNEE / 2 < found.throughput.rate < KNEE + 40_000 / (SIZE - 4)


def test_the_loss_is_what_exceeds_the_limit(bridged: tuple[Netns, Netns, Netns]) -> None:
    left, right, switch = bridged
    limited(switch, "right", queue=20_000)
    found = size_report(left, right, "--test", "loss", "--max-rate", str(4 * KNEE))
    first, last = found.loss[0], found.loss[-1]
    assert first.lost == pytest.approx(first.sent - KNEE * first.elapsed, abs=100)
    assert last.lost == 0
    assert last.load.rate < KNEE


def test_a_sender_whose_interface_takes_no_more_is_held_up_and_loses_nothing(ends: tuple[Netns, Netns]) -> None:
    left, right = ends
    limited(left, "net1", queue=1_000_000)  # more than the buffer of a socket
    found = size_report(left, right, "--test", "throughput", "--max-rate", str(3 * KNEE))
    assert found.throughput
    first = found.throughput.trials[0]
    assert first.outcome() is Outcome.NOT_SENT
    assert first.lost == 0
    assert first.offered < 1.5 * KNEE
    assert found.throughput.rate < 1.5 * KNEE


def test_frames_that_the_queue_of_the_sender_drops_are_lost(ends: tuple[Netns, Netns]) -> None:
    left, right = ends
    limited(left, "net1", queue=20_000)  # less than the buffer of a socket
    with path.opened(Endpoint(left.path, "net1"), Endpoint(right.path, "net1")) as made:
        trial = made.run(Load(size=SIZE, rate=3 * KNEE, seconds=1))
    assert trial.sent == round(3 * KNEE)
    # All but what the limit lets pass in that time is lost, and lost there; of some drops the sender is told.
    assert trial.lost >= trial.sent - KNEE * trial.elapsed - 100
    shown = left.run("tc", "-s", "-j", "qdisc", "show", "dev", "net1")
    assert trial.lost <= next(each["drops"] for each in json.loads(shown) if each["kind"] == "tbf")


def test_a_full_ring_loses_frames_of_the_receiver_that_are_counted_apart(ends: tuple[Netns, Netns]) -> None:
    left, right = ends
    with host_netns.opened(left.path) as ns:
        sender = host_netns.inside(ns.fd, lambda: Sender("net1", *MACS))
    with host_netns.opened(right.path) as ns:
        ring = host_netns.inside(ns.fd, lambda: Ring("net1", 7))
    with sender:
        for trial in (8, 7):  # only those of trial 7 are the ring's
            sent = sender.send(Load(size=64, rate=1e9, seconds=70_000e-9), trial)
            assert sent.frames == 70_000
    numbers: list[int] = []
    while found := ring.read(times=True):
        numbers += found.numbers
        assert len(found.numbers) == len(found.sent) == len(found.arrived)
    assert numbers == list(range(65_536))
    assert ring.overruns() == 70_000 - 65_536
    ring.close()


def test_frames_from_the_size_of_64_to_that_of_the_mtu_arrive_whole(
    opened: MeasuredPath, ends: tuple[Netns, Netns]
) -> None:
    _, right = ends
    assert opened.largest() == 1518

    def received() -> int:
        return int(right.run("cat", "/sys/class/net/net1/statistics/rx_bytes"))

    for size in (64, 1518):
        before = received()
        opened.run(Load(size=size, rate=10_000, seconds=0.1))
        assert received() - before == 1000 * (size - 4)


def test_the_report_the_picture_and_the_progress(ends: tuple[Netns, Netns], tmp_path: Path) -> None:
    left, right = ends
    picture = tmp_path / "found.svg"
    short = ("--trial", "0.2", "--pause", "0", "--size", "64", "--max-rate", "2000", "--plot", str(picture))
    done = measure(left, right, *short)
    assert done.returncode == 0, done.stderr
    assert f"from net1 in {left.path} (veth, {left.links()['net1']['address']}, MTU 1500, " in done.stdout
    for title in ("Throughput (RFC", "Latency in µs, at 100 %", "Frame loss rate (RFC", "- A trial takes 0.2 s"):
        assert title in done.stdout
    assert "64 bytes: the generator alone reaches " in done.stderr
    assert "64 bytes, throughput: 2000 frames/s: " in done.stderr
    ElementTree.parse(picture)


def test_ends_that_cannot_be_measured_are_refused(ends: tuple[Netns, Netns]) -> None:
    left, right = ends

    def refused(source: Endpoint, destination: Endpoint) -> Error:
        with pytest.raises(Error) as caught, path.opened(source, destination):
            pass
        return caught.value

    here, there = Endpoint(left.path, "net1"), Endpoint(right.path, "net1")
    absent = refused(here, Endpoint(right.path, "net2"))
    assert (absent.kind, absent.msg.split(";")[0]) == (
        Kind.INTERFACE,
        f"interface net2 ({right.path}): no such interface",
    )
    assert refused(here, Endpoint("/run/netns/absent", "net1")).kind is Kind.NOT_ATTACHED
    assert refused(here, here).kind is Kind.INVALID_REQUEST
    right.run("ip", "link", "set", "net1", "down")
    assert refused(here, there).msg == f"interface net1 ({left.path}): it has no carrier"
    assert refused(there, here).msg == f"interface net1 ({right.path}): it is down"


def test_an_interface_that_disappears_ends_the_measurement_with_its_name(
    opened: MeasuredPath, ends: tuple[Netns, Netns]
) -> None:
    _, right = ends
    right.run("ip", "link", "del", "net1")
    with pytest.raises(Error, match="interface net1") as caught:
        opened.run(Load(size=64, rate=1000, seconds=0.1))
    assert caught.value.kind is Kind.IO


def test_the_speed_and_the_driver_of_an_interface(ends: tuple[Netns, Netns]) -> None:
    with host_netns.opened(ends[0].path) as ns:
        found = [
            host_netns.inside(ns.fd, lambda: (ethtool.driver(name), ethtool.speed(name)))  # noqa: B023 — called at once
            for name in ("net1", "absent")
        ]
    assert found == [("veth", 10_000), ("", None)]
