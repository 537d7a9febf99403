"""The forwarder of a measurement: what testpmd prints, which ports pods have, where frames were lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.measuring import Simulated, measured
from wirespeed.cli.measure import measure
from wirespeed.cli.options import as_json
from wirespeed.errors import Error, Kind
from wirespeed.measure import pods, report, run, testpmd
from wirespeed.measure.forwarder import Forwarded, Forwarder, Port
from wirespeed.measure.report import Report
from wirespeed.measure.trial import Load, Losses, Trial

PORTS = """\
show port summary all
Number of available ports: 2
Port MAC Address       Name         Driver         Status   Link
0    F2:0C:CF:21:4B:09 0000:06:10.0 net_e1000_igb_vf up       1 Gbps
1    DA:79:59:52:FE:18 virtio_user0 net_virtio_user down     Unknown
"""
COUNTS = """\

  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 200            RX-dropped: 7             RX-total: 207
  TX-packets: 3              TX-dropped: 0             TX-total: 3
  ----------------------------------------------------------------------------

  ---------------------- Forward statistics for port 1  ----------------------
  RX-packets: 3              RX-dropped: 0             RX-total: 3
  RX-error: 0
  RX-nombufs: 0
  TX-packets: 195            TX-dropped: 5             TX-total: 200
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 203            RX-dropped: 7             RX-total: 210
  TX-packets: 198            TX-dropped: 5             TX-total: 203
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
"""
FORWARDER = Forwarder(
    program=testpmd.PROGRAM,
    entry=Port(name="net1, port 0", mac="02:00:00:00:00:0a", device="0000:06:10.0", driver="net_e1000_igb_vf"),
    exit=Port(name="net2, port 1", mac="02:00:00:00:00:0b", device="virtio_user0", driver="net_virtio_user"),
)


def test_the_ports_that_testpmd_lists_have_their_devices_and_links() -> None:
    assert testpmd.parse_ports(PORTS) == [
        testpmd.Port(0, "f2:0c:cf:21:4b:09", "0000:06:10.0", "net_e1000_igb_vf", True),
        testpmd.Port(1, "da:79:59:52:fe:18", "virtio_user0", "net_virtio_user", False),
    ]


def test_the_counts_of_testpmd_are_those_of_one_direction() -> None:
    assert testpmd.parse_counts(COUNTS, 0, 1) == Forwarded(received=200, missed=7, sent=195, dropped=5)
    assert testpmd.parse_counts(COUNTS, 1, 0) == Forwarded(received=3, missed=0, sent=3, dropped=0)


def test_a_port_is_found_by_its_device_and_else_by_its_mac() -> None:
    ports = testpmd.parse_ports(PORTS)
    assert testpmd.find(ports, device="virtio_user0", mac="f2:0c:cf:21:4b:09") == ports[1]
    assert testpmd.find(ports, device="", mac="F2:0C:CF:21:4B:09") == ports[0]
    assert testpmd.find(ports, device="0000:06:10.1", mac="") is None


def test_frames_are_lost_before_the_forwarder_in_it_or_after_it() -> None:
    trial = Trial(
        load=Load(size=64, rate=210, seconds=1),
        sent=210,
        elapsed=1.0,
        received=193,
        forwarded=Forwarded(received=200, missed=7, sent=195, dropped=5),
    )
    assert trial.losses == Losses(before=3, missed=7, dropped=5, after=2)
    assert sum(trial.losses) == trial.lost


class Counting(Simulated):
    """A path whose forwarder drops what is lost."""

    def run(self, load: Load, *, latency: bool = False) -> Trial:
        trial = super().run(load, latency=latency)
        counts = Forwarded(received=trial.sent, missed=0, sent=trial.received, dropped=trial.lost)
        return msgspec.structs.replace(trial, forwarded=counts)


@pytest.fixture
def found() -> Report:
    path = Counting(knee=20_000)
    path.forwarder = FORWARDER
    done = measured(path, sizes=(64,), trial=1.0)
    assert ": 0 before the forwarder, 0 RX-missed and 280000 TX-dropped in it, 0 after it" in done.notes[1]
    return done.report


def test_the_report_describes_the_forwarder_and_where_frames_were_lost(found: Report) -> None:
    lines = report.text(found).splitlines()
    assert lines[1] == (
        "through testpmd, mac forwarding, from net1, port 0 (0000:06:10.0, net_e1000_igb_vf, 02:00:00:00:00:0a) to "
        "net2, port 1 (virtio_user0, net_virtio_user, 02:00:00:00:00:0b)"
    )
    assert lines[2].startswith("to      right ")
    head = next(line for line in lines if "TX-dropped" in line)
    row = lines[lines.index(head) + 1].split()
    assert head.split()[-4:] == ["before", "RX-missed", "TX-dropped", "after"]
    assert row[-4:] == ["0", "0", "280000", "0"]
    assert msgspec.json.decode(as_json(found), type=Report) == found


def test_the_figures_without_the_forwarder_follow_those_with_it(found: Report) -> None:
    direct = measured(Simulated(), sizes=(64,), trial=1.0).report.sizes
    text = report.text(msgspec.structs.replace(found, direct=direct))
    _, _, after = text.partition("\nWithout the forwarder, from interface to interface:\n")
    assert "Throughput (RFC 2544, 26.1)" in after
    assert "TX-dropped" not in after


# Pods


def status(*interfaces: dict[str, Any]) -> dict[str, str]:
    return {"k8s.v1.cni.cncf.io/network-status": json.dumps(interfaces), "wirespeed.play/netns": "/run/netns/x"}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A play with the pod `fw`."""
    networks = status(
        {"interface": "eth0", "mac": "02:00:00:00:00:01"},
        {"interface": "net1", "device-info": {"type": "vhost-user"}},
        {"interface": "net2", "device-info": {"type": "pci", "pci": {"pci-address": "0000:06:10.0"}}},
        {"interface": "net3", "device-info": {"type": "vhost-user"}, "mac": "02:00:00:00:00:0B"},
        {"interface": "net4", "device-info": {"type": "memif"}},
    )
    file = tmp_path / "pods.json"
    pod = {"metadata": {"name": "fw", "namespace": "lab", "annotations": networks}}
    file.write_text(json.dumps({"items": [pod]}))
    monkeypatch.setenv("PODS", str(file))


@pytest.mark.usefixtures("told")
def test_the_devices_of_a_pods_interfaces_have_the_names_that_dpdk_gives_them() -> None:
    names = ("eth0", "net1", "net2", "net3", "net4")
    found = [pods.attached("pod/lab/fw", name, None).device for name in names]
    assert found == ["", "virtio_user0", "0000:06:10.0", "virtio_user1", "net_memif0"]


@pytest.mark.usefixtures("told")
def test_a_port_of_a_running_forwarder_is_a_mac_or_an_interface_whose_mac_is_recorded() -> None:
    assert pods.port("02:00:00:00:00:0A", None) == Port(name="", mac="02:00:00:00:00:0a")
    found = pods.port("pod/lab/fw:net3", None)
    assert found == Port(name="net3 of pod lab/fw", mac="02:00:00:00:00:0b", device="virtio_user1")
    assert str(found) == "net3 of pod lab/fw (virtio_user1, 02:00:00:00:00:0b)"


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("port", "kind", "text"),
    [
        (
            "pod/lab/fw:net1",
            Kind.UNSUPPORTED,
            "pod lab/fw (net1): the MAC address of the port is not recorded; "
            "give the MAC address instead of the pod",
        ),
        (
            "pod/lab/fw:net7",
            Kind.NOT_ATTACHED,
            "pod lab/fw: no such interface; expected one of its interfaces: eth0, net1, net2, net3, net4, "
            "got 'net7'",
        ),
        ("pod/fw:net1", Kind.NOT_ATTACHED, "pod default/fw: it is not in this play"),
        (
            "pod/fw",
            Kind.INVALID_REQUEST,
            "no port of a forwarder; expected pod/[NAMESPACE/]NAME:INTERFACE, or a MAC address, got 'pod/fw'",
        ),
    ],
)
def test_a_port_that_cannot_be_used_is_refused_with_what_to_give(port: str, kind: Kind, text: str) -> None:
    with pytest.raises(Error) as caught:
        pods.port(port, None)
    assert (caught.value.kind, caught.value.msg) == (kind, text)


# The command

ENDS = ("--from", "a", "--to", "b")
MACS = ("--through", "02:00:00:00:00:0a", "--through", "02:00:00:00:00:0b")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "expected --from and --to, or --network"),
        ((*ENDS, "--network", "n"), "--network makes the pods itself: it is not allowed with --from and --to"),
        (("--network", "a", "--network", "b", "--network", "c"), "expected --network once or twice, got 3 times"),
        ((*ENDS, "--through", "left"), "expected --through twice, for two ports, got 1 times"),
        ((*ENDS, "--through", "left", *MACS[:2]), "expected --through with two networks, or with two ports of a"),
        ((*ENDS, "--direct"), "--direct needs --through: without it, the path is direct already"),
        ((*ENDS, "--plot", "-", "--json"), "--plot - and --json both print to standard output"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: tuple[str, ...], text: str) -> None:
    done = CliRunner().invoke(measure, options)
    assert done.exit_code == 2
    assert text in " ".join(done.output.split())


@pytest.fixture
def priorities(monkeypatch: pytest.MonkeyPatch, found: Report) -> list[int]:
    """The scheduling policies and nice values that measurements take, which measure nothing."""
    taken: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda _which, _pid, nice: taken.append(nice))
    monkeypatch.setattr(os, "sched_setscheduler", lambda _pid, policy, _parameters: taken.append(policy))
    monkeypatch.setattr(run, "measure", lambda *_, **__: found)
    return taken


@pytest.mark.parametrize(
    ("cpus", "options", "taken"),
    [
        (4, (), [os.SCHED_FIFO]),
        (3, (), [-10]),
        (64, MACS, []),
        (2, ("--real-time",), [os.SCHED_FIFO]),
        (64, (*MACS, "--real-time"), [os.SCHED_FIFO]),
        (64, ("--no-real-time",), [-10]),
    ],
)
def test_a_real_time_priority_needs_four_cpus_and_no_forwarder_unless_it_is_asked_for(
    cpus: int,
    options: tuple[str, ...],
    taken: list[int],
    priorities: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    done = CliRunner().invoke(measure, (*ENDS, *options))
    assert done.exit_code == 0, done.output
    assert priorities == taken


@pytest.mark.usefixtures("priorities")
def test_the_picture_can_be_printed_instead_of_the_report() -> None:
    done = CliRunner().invoke(measure, (*ENDS, "--plot", "-"))
    assert done.output.startswith("<svg ")
    assert done.output.endswith("</svg>\n")
