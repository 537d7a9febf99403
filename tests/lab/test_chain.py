"""The service chains of the examples: from VF to VF, through vhost-user and Open vSwitch with DPDK, and back."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import PFS, LabVfs, sh

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOCKETS = Path("/run/wirespeed/vhost")  # where the examples' pods have their sockets
PACKETS = 3200  # that examples/chain/pod-3-source.yaml sends
PINGS = 200  # that examples/chain-kernel/pod-3-source.yaml sends
PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.usefixtures("unchanged", "no_bridge", "quiet_pfs", "switch")


@pytest.fixture(scope="module")
def switch() -> Iterator[None]:
    """An Open vSwitch with DPDK, where the examples expect it."""
    process = subprocess.Popen(
        [EXAMPLES / "switch", "sh", "-c", "echo up; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, "the switch does not start"
        assert process.stdout.readline() == b"up\n", process.communicate()[1].decode()
        yield
    finally:
        process.communicate(b"end\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert list(Path("/run/openvswitch").iterdir()) == []


@pytest.fixture
def quiet_pfs() -> Iterator[None]:
    """The node sends nothing of its own (router solicitations) over the PFs, which VFs would receive and count."""
    files = [Path(f"/proc/sys/net/ipv6/conf/{pf}/disable_ipv6") for pf in PFS]
    for file in files:
        file.write_text("1")
    yield
    for file in files:
        file.write_text("0")


def bridges() -> dict[str, list[str]]:
    """The switch's bridges, and the ports of each."""
    return {name: sh("ovs-vsctl", "list-ports", name).split() for name in sh("ovs-vsctl", "list-br").split()}


def play(out: Path, *options: str) -> str:
    """What a play says; it must end well, with nothing left of its pods in the switch or on the node."""
    before = bridges()
    command = [sys.executable, "-m", "wirespeed", "play", "--in-order", "--out", str(out), "--timeout", "240"]
    command += ["--cni-conf", str(EXAMPLES / "00-wirespeed.conf"), "--pools", str(EXAMPLES / "node/values.yaml")]
    command += options
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bridges() == before
    assert [path for path in SOCKETS.rglob("*") if not path.is_dir()] == []
    return done.stdout


def interfaces(out: Path, pod: str) -> dict[str, dict[str, Any]]:
    """The interfaces of a pod that was played, as its network-status tells them."""
    found = {item["metadata"]["name"]: item for item in json.loads((out / "pods.json").read_text())["items"]}
    told = found[pod]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    return {entry["interface"]: entry for entry in json.loads(told)}


def counted(out: Path, pod: str, port: int = 0) -> tuple[int, int]:
    """Packets that a pod's testpmd received and sent at a port, by the last statistics in its output."""
    said = (out / f"logs/default_{pod}_testpmd.log").read_text()
    statistics = said.rpartition(f"statistics for port {port} ")[2]
    counts = [re.search(rf"{way}-packets: +(\d+)", statistics) for way in ("RX", "TX")]
    assert counts[0] is not None, said
    assert counts[1] is not None, said
    return int(counts[0][1]), int(counts[1][1])


def switched(said: str, pod: str) -> tuple[int, int]:
    """Packets that the switch received from a pod's port and sent to it, none of them dropped."""
    found = re.search(rf"port of {pod}: (\d+) packets from it, 0 dropped, (\d+) to it, 0 dropped", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def test_every_packet_crosses_from_vf_to_vf_and_through_the_switch_and_comes_back(
    vfs: LabVfs, tmp_path: Path
) -> None:
    said = play(tmp_path, "--then", f"examples/chain/ports {PACKETS}", "examples/chain")
    hops = {
        "source, VF": counted(tmp_path, "source"),
        "firewall, VF": counted(tmp_path, "firewall", 0),
        "firewall, port": counted(tmp_path, "firewall", 1),
        "switch, firewall": switched(said, "firewall"),
        "switch, sink": switched(said, "sink"),
        "sink, port": counted(tmp_path, "sink"),
    }
    assert hops == dict.fromkeys(hops, (PACKETS, PACKETS))
    source, firewall = interfaces(tmp_path, "source"), interfaces(tmp_path, "firewall")
    given = [pod["net1"]["device-info"]["pci"]["pci-address"] for pod in (source, firewall)]
    assert sorted(given) == vfs.vfio[:2]
    assert firewall["net2"]["device-info"]["vhost-user"]["path"].startswith("/run/vhost-user/vhost-")
    assert bridges() == {}


@pytest.fixture
def bridge(switch: None) -> Iterator[None]:
    """The bridge that the administrator makes for examples/chain-kernel."""
    sh(
        "ovs-vsctl",
        "--timeout=20",
        "add-br",
        "br-inside",
        "--",
        "set",
        "Bridge",
        "br-inside",
        "datapath_type=netdev",
    )
    yield
    sh("ovs-vsctl", "--timeout=20", "del-br", "br-inside")


@pytest.mark.usefixtures("bridge")
def test_every_ping_crosses_a_kernel_vf_and_the_switch_and_is_answered(vfs: LabVfs, tmp_path: Path) -> None:
    said = play(
        tmp_path,
        *("--then", f"examples/chain/ports {PINGS}"),
        "examples/chain-kernel",
    )
    pinged = (tmp_path / "logs/default_source_ping.log").read_text()
    assert f"{PINGS} packets transmitted, {PINGS} received, 0% packet loss" in pinged
    # ARP crosses too, and what else the kernel sends on a new interface: so there are more than pings.
    hops = [counted(tmp_path, "firewall", 0), counted(tmp_path, "firewall", 1), counted(tmp_path, "sink")]
    hops += [switched(said, "firewall"), switched(said, "sink")]
    assert min(count for hop in hops for count in hop) >= PINGS
    pods = [interfaces(tmp_path, pod) for pod in ("source", "firewall")]
    assert sorted(pod["net1"]["device-info"]["pci"]["pci-address"] for pod in pods) == vfs.kernel[:2]
    assert bridges() == {"br-inside": []}
